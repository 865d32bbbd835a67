"""The command line: `python -m gesturepose.bench`."""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Final

import typer
from tqdm import tqdm

from gesturepose.bench import cuda, epochs, growth, inference, paper, pipeline, recordings, rendering, steps
from gesturepose.bench.machine import describe
from gesturepose.bench.measure import Section
from gesturepose.bench.table import Table, markdown, write_table
from gesturepose.bench.workplace import Case, Workplace, switches_kept
from gesturepose.errors import InputError, exit_on_input_error
from gesturepose.params import load_params
from gesturepose.provenance import git_state, project_root

CASES: Final[tuple[Case, ...]] = (
    *recordings.CASES,
    *rendering.CASES,
    *steps.CASES,
    *growth.CASES,
    *paper.CASES,
    *inference.CASES,
    *epochs.CASES,
    *pipeline.CASES,
    *cuda.CASES,
)
SECTIONS: Final[tuple[Section, ...]] = (
    recordings.RECORDINGS,
    rendering.RENDERER,
    steps.STEP,
    steps.SETTINGS,
    growth.GRID,
    growth.GROWTH,
    paper.PAPER,
    inference.INFERENCE,
    epochs.LOADING,
    epochs.EPOCHS,
    pipeline.PIPELINE,
    cuda.GPU,
)
REPORT: Final = Path("reports/bench")


def select(pattern: str | None) -> tuple[Case, ...]:
    """The cases whose name contains `pattern`, all without one. Raises InputError where there is none."""
    chosen = tuple(case for case in CASES if pattern is None or pattern.lower() in case.name.lower())
    if not chosen:
        known = ", ".join(case.name for case in CASES)
        raise InputError(f"no measurement's name contains {pattern!r}", hint=f"There are: {known}.")
    return chosen


def measure(cases: tuple[Case, ...], repeats: int) -> Table:
    """All rows of `cases`, with whatever they need in a temporary folder that is removed."""
    params = load_params()
    project = project_root()
    git = git_state(project)
    machine = describe(params.runtime)
    rows = []
    with (
        tempfile.TemporaryDirectory(prefix="gesturepose-bench-") as folder,
        tqdm(total=len(cases), unit="case", file=sys.stderr) as progress,
        contextlib.redirect_stderr(io.StringIO()),  # the bars of what is measured
    ):
        workplace = Workplace(Path(folder), params, project, repeats)
        for case in cases:
            progress.set_description(case.name)
            with switches_kept():
                rows += case.measure(workplace)
            progress.update()
    present = {entry.section for entry in rows}
    sections = [section for section in SECTIONS if section.title in present]
    return Table(machine=machine, commit=git.commit, dirty=git.dirty, sections=sections, rows=rows)


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def bench(
    only: Annotated[str | None, typer.Option(help="only what has this in its name; printed, not written")] = None,
    repeats: Annotated[
        int,
        typer.Option(min=1, help="measurements of a row, beside the warm-up; fewer of a long one, more of a short one"),
    ] = 4,
    out: Annotated[Path | None, typer.Option(help=f"write here; without --only the default is {REPORT}")] = None,
) -> None:
    """Measure the parts' speed and memory, each against its baseline in the same run."""
    table = measure(select(only), repeats)
    folder = out or (None if only else REPORT)
    if folder is not None:
        write_table(table, folder)
    print(markdown(table), end="")


def main() -> None:
    with exit_on_input_error():
        app()


if __name__ == "__main__":
    main()
