"""The command line: `gesturepose …`. Heavy imports stand in the commands, so that `--help` is quick."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gesturepose.errors import exit_on_input_error


class _Commands(TyperGroup):
    """Mistakes and Ctrl-C are answered in a command: outside of it typer ends without a word."""

    def invoke(self, ctx: Any) -> Any:
        with exit_on_input_error():
            return super().invoke(ctx)


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Gestures and 3D hand poses from video: data, settings and runs of the pipeline in dvc.yaml.",
)


class Size(StrEnum):
    test = "test"
    demo = "demo"
    full = "full"


class Device(StrEnum):
    cpu = "cpu"
    cuda = "cuda"


DeviceOption = Annotated[Device, typer.Option(help="the pictures' last bits depend on it")]


@app.command()
def profile(name: Annotated[str, typer.Argument(help="demo, paper or test")]) -> None:
    """Rewrite params.yaml with a profile's values; comments and all other values stay."""
    from gesturepose.params import PARAMS_FILE, SYNTHETIC_ROOT, apply_profile, load_params

    changes = apply_profile(name)
    print(f"{PARAMS_FILE}: profile {name}" + ("" if changes else ", nothing to change"))
    for change in changes:
        print(f"  {change}")
    root = Path(load_params().data.root)
    if root != Path(SYNTHETIC_ROOT) and not root.exists():
        print(f"{root} is not there yet: link the dataset there, as the README's section “Bring FPHA” says.")


@app.command()
def verify(
    root: Path,
    sheet: Annotated[Path | None, typer.Option(help="where to write a contact sheet of overlays (PNG or JPEG)")] = None,
) -> None:
    """Check a dataset in FPHA's layout, with or without frames. Exit code: 0 clean, 1 suspicious, 2 broken."""
    from gesturepose.data.verify import verify_root

    report = verify_root(root, sheet=sheet)
    print(report.to_text())
    raise typer.Exit(report.exit_code)


@app.command()
def generate(
    out: Path,
    size: Annotated[Size, typer.Option(help="how many classes, subjects and videos")] = Size.demo,
    image_width: Annotated[int, typer.Option(min=160, max=1920, help="px; the height is 9/16 of it")] = 480,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: DeviceOption = Device.cpu,
    workers: Annotated[int, typer.Option(min=1, help="processes; at most 8 on cuda")] = os.cpu_count() or 1,
    annotations_only: Annotated[bool, typer.Option(help="skeletons and lists, no frames")] = False,
) -> None:
    """Write a synthetic dataset in FPHA's layout to a new folder."""
    from gesturepose.synthetic.writer import write_root

    write_root(
        out,
        size=size.value,
        image_width=image_width,
        seed=seed,
        device=device.value,
        workers=workers,
        annotations_only=annotations_only,
    )


@app.command()
def render(
    annotations: Path,
    out: Path,
    image_width: Annotated[int | None, typer.Option(help="px; default: the annotations' own camera")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    device: DeviceOption = Device.cpu,
    workers: Annotated[int, typer.Option(min=1, help="processes; at most 8 on cuda")] = os.cpu_count() or 1,
    subject: Annotated[list[int] | None, typer.Option(help="only these subjects")] = None,
    action: Annotated[list[str] | None, typer.Option(help="only these classes")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="at most so many videos")] = None,
    allow_missing: Annotated[bool, typer.Option(help="go on where listed sequences are not there")] = False,
) -> None:
    """Render pictures for any annotations in FPHA's layout, or a part of them; `data.root` can then name OUT."""
    from gesturepose.synthetic.writer import render_root

    render_root(
        annotations,
        out,
        image_width=image_width,
        seed=seed,
        device=device.value,
        workers=workers,
        subjects=tuple(subject or ()),
        actions=tuple(action or ()),
        limit=limit,
        allow_missing=allow_missing,
    )


@app.command()
def compare(
    revisions: Annotated[
        list[str], typer.Argument(metavar="REV...", help="branches, tags, commits, DVC experiments; or workspace")
    ],
    out: Annotated[Path | None, typer.Option(help="folder of the page; default: reports/compare")] = None,
) -> None:
    """Lay the label-efficiency curves of revisions over each other; gains are against the first one."""
    from gesturepose.compare.page import compare as write_comparison
    from gesturepose.compare.page import summary

    written = write_comparison(revisions, out)
    for line in summary(written.comparison):
        print(line)
    print(f"{written.page}\n{written.figure}\nMLflow run {written.run_id}")


@app.command()
def ui(port: Annotated[int, typer.Option(min=1, max=65535)] = 5000) -> None:
    """Print the tracking store's URI and serve MLflow's pages over it on localhost."""
    from gesturepose.tracking import open_store, shown_uri

    uri = open_store().uri
    print(f"MLflow store: {shown_uri(uri)}")
    if uri.startswith("http"):
        print("A server already shows it at that address.")
        return
    address = ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    print(f"http://127.0.0.1:{port} (Ctrl-C ends it)", flush=True)
    os.execv(sys.executable, [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, *address])


@app.command()
def link() -> None:
    """Find the run behind each stage's present result, and note this commit on runs that the run-cache reused."""
    from gesturepose.tracking import link_cached_runs

    links = link_cached_runs()
    for found in links:
        note = "no finished run" if found.run_id is None else found.run_id + (", commit noted" if found.linked else "")
        print(f"{found.stage:<24}{note}")
    raise typer.Exit(0 if all(found.run_id for found in links) else 1)


@app.command()
def matrix(
    name: Annotated[str, typer.Argument(help="a folder below pipelines/ with a dvc.yaml, such as weak")],
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, help="stages at once; default: one a GPU, or as many as the cores bear", show_default=False
        ),
    ] = None,
    dry: Annotated[bool, typer.Option("--dry", help="only say what would run, how long and how much disk")] = False,
) -> None:
    """Run a nested pipeline, several cells at once; the same command goes on after an interruption."""
    from gesturepose.matrix.runner import run_matrix

    raise typer.Exit(run_matrix(name, jobs=jobs, dry=dry))


@app.command()
def search(
    trials: Annotated[
        int | None, typer.Option(min=1, help="in all; default: search.trials", show_default=False)
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1, help="trials at once; default: one a GPU, or as many as the cores bear", show_default=False
        ),
    ] = None,
) -> None:
    """Search settings with Optuna, on the validation videos; the same command goes on after an interruption."""
    from gesturepose.params import load_params, with_values
    from gesturepose.search.runner import run_search

    params = load_params()
    if trials is not None:
        params = with_values(params, {"search.trials": trials})
    raise typer.Exit(run_search(params, workers=workers))


@app.command()
def promote(
    study: str,
    trial: Annotated[int | None, typer.Option(min=0, help="default: the best", show_default=False)] = None,
    dirty: Annotated[bool, typer.Option("--dirty", help="though params.yaml has uncommitted changes")] = False,
    other: Annotated[bool, typer.Option("--other", help="though the study is of other data, code or settings")] = False,
) -> None:
    """Write a trial's settings into params.yaml; `dvc repro` then trains exactly that."""
    from gesturepose.search.promote import promote as write_settings

    for line in write_settings(study, trial, dirty=dirty, other=other):
        print(line)


@app.command()
def doctor(
    reap: Annotated[
        bool, typer.Option(help="end runs and trials whose process is gone; the trials wait again")
    ] = False,
) -> None:
    """Say where things stand: settings, project, tracking store, unfinished runs and trials."""
    from gesturepose.params import load_params
    from gesturepose.search.storage import host_lock, shown_name, storage_reported
    from gesturepose.search.study import all_searches, dead_trials, requeue_dead
    from gesturepose.tracking import dead_runs, reap_dead_runs, shown_uri, tracking_uri

    params = load_params()
    print(f"data.root     {params.data.root}" + ("" if Path(params.data.root).exists() else " (not there yet)"))
    print(f"MLflow store  {shown_uri(tracking_uri())}")
    dead = reap_dead_runs() if reap else dead_runs()
    print(f"dead runs     {len(dead)}" + (" ended" if reap and dead else "; --reap ends them" if dead else ""))
    print(f"studies       {shown_name()}")
    trials = 0
    with storage_reported():
        for found in all_searches():
            with host_lock():
                trials += len(dead_trials(found))
                if reap:
                    requeue_dead(found)
    print(f"dead trials   {trials}" + (" ended" if reap and trials else "; --reap ends them" if trials else ""))


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
