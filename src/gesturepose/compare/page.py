"""The comparison as one self-contained HTML page with its figure, kept as an MLflow run too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from gesturepose.checkpoint import write_atomically
from gesturepose.compare.comparison import CONFIDENCE, RESAMPLES, Comparison, Gain, Score, Table, compare_revisions
from gesturepose.compare.revisions import WORKSPACE, Revision, read_revisions
from gesturepose.curve_plots import BAND, METHODS, PANELS, curve_figure
from gesturepose.errors import InputError
from gesturepose.page import FigureFile
from gesturepose.plots import figure_png
from gesturepose.provenance import project_root
from gesturepose.result_page import result_environment
from gesturepose.structures import SYNTHETIC_NAME
from gesturepose.tracking import find_trained, log_comparison
from gesturepose.tracking.store import open_store
from gesturepose.wording import ENOUGH_SEEDS, mcnemar_text, p_value, points, verdict

PAGE, FIGURE = "index.html", "curves.png"


@dataclass(frozen=True)
class Written:
    """What `gesturepose compare` leaves behind."""

    comparison: Comparison
    page: Path
    figure: Path
    run_id: str


def compare(names: Sequence[str], out: Path | None = None) -> Written:
    """Read, align, test, draw, write and log.

    Args:
        names: revisions, the first of which is what the others are held against.
        out: a folder for the page and the figure; reports/compare of the project by default.

    Raises:
        InputError: see `read_revisions` and `compare_revisions`; `out` cannot be written.
    """
    root = project_root()
    folder = root / "reports" / "compare" if out is None else out
    comparison = compare_revisions(read_revisions(names, root))
    png = figure_png(curve_figure({revision.name: revision.curves for revision in comparison.revisions}))
    store = open_store()
    digests = {str(digest) for revision in comparison.revisions for digest in revision.cells["weights"]}
    addresses = find_trained(digests, store)
    try:
        write_atomically(folder / FIGURE, png)
        write_atomically(folder / PAGE, render_page(comparison, png, addresses).encode())
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror}", file=folder) from None
    files = (folder / PAGE, folder / FIGURE)
    commits = {revision.name: revision.commit for revision in comparison.revisions}
    return Written(comparison, *files, log_comparison(commits, gain_metrics(comparison), files, store))


def render_page(comparison: Comparison, png: bytes, addresses: Mapping[str, str]) -> str:
    """The page as HTML.

    Args:
        png: the figure.
        addresses: of the MLflow run that trained each weights file, by the file's SHA-256.
    """
    return (
        result_environment()
        .get_template("compare.html.j2")
        .render(
            comparison=comparison,
            first=comparison.revisions[0],
            workspace=WORKSPACE,
            figure=FigureFile("Label-efficiency curves", f"{BAND} {_data_of(comparison)}", png),
            data=_data_of(comparison),
            panels=PANELS,
            methods=METHODS,
            banners=_banners(comparison.revisions),
            enough_seeds=ENOUGH_SEEDS,
            confidence=f"{100 * CONFIDENCE:g}\u00a0%",
            resamples=f"{RESAMPLES:,}",
            level=f"{1 - CONFIDENCE:.2g}",
            described=describe_data,
            links=lambda revision, table, ratio: _links(revision, table, ratio, addresses),
            score_text=score_text,
            gain_text=gain_text,
            mcnemar_of=lambda gain: _mcnemar_of(gain, comparison.revisions[0].name),
        )
    )


def gain_metrics(comparison: Comparison) -> dict[str, float]:
    """`gain/<direction>/<method>/<ratio or area>/<place of the revision>` and its bounds, as shares of 1."""
    found: dict[str, float] = {}
    for table in comparison.tables:
        for row in table.rows:
            label = "area" if len(row.ratios) > 1 else row.label
            for place, gain in enumerate(row.gains):
                if gain is not None:
                    name = f"gain/{table.direction}/{table.method}/{label}/{place}"
                    difference = gain.difference
                    found |= {name: difference.value, f"{name}/low": difference.low, f"{name}/high": difference.high}
                    found[f"{name}/p_adjusted"] = gain.p_adjusted
    return found


def summary(comparison: Comparison) -> list[str]:
    """The page in lines for a terminal: each gain, what the revisions do not share, what is stale."""
    lines = []
    for table in comparison.tables:
        for row in table.rows:
            shown = zip(comparison.revisions, row.scores, row.gains, strict=True)
            parts = [
                f"{revision.name} {score_text(score)}" + (f", {gain_text(gain)}" if gain else "")
                for revision, score, gain in shown
                if score is not None
            ]
            lines.append(f"{table.direction} {table.method} {row.label} ({table.metric}): {'; '.join(parts)}")
    for revision in comparison.revisions:
        lines.append(f"{revision.name}: {describe_data(revision)}")
    lines += [f"note: {note}" for note in comparison.notes]
    lines += [f"stale: {revision.name}: {text}" for revision in comparison.revisions for text in revision.lineage.stale]
    return [line.replace("\u00a0", " ") for line in lines]


def score_text(score: Score) -> str:
    """61.2 ± 1.4 %, 3 seeds"""
    seeds = len(score.by_seed)
    spread = f" ± {100 * score.std:.1f}" if seeds > 1 else ""
    few = " (preliminary)" if seeds < ENOUGH_SEEDS else ""
    return f"{100 * score.mean:.1f}{spread}\u00a0%, {seeds} seed{'s' if seeds > 1 else ''}{few}"


def gain_text(gain: Gain) -> str:
    """+2.1 points (−0.4 to 4.6), p = 0.21, no significant difference"""
    difference = gain.difference
    end = verdict(difference.value, significant=gain.significant, seeds=difference.seeds)
    interval = f"{points(difference.low)} to {points(difference.high)}"
    return f"{points(difference.value)} points ({interval}), {p_value(gain.p_adjusted)}, {end}"


def _mcnemar_of(gain: Gain, first: str) -> str:
    assert gain.mcnemar is not None
    return mcnemar_text(asdict(gain.mcnemar), gain.mcnemar_adjusted, other=first, level=1 - CONFIDENCE)


def describe_data(revision: Revision) -> str:
    """Which data, split and seeds a revision's numbers are of."""
    data = revision.data
    seeds = ", ".join(str(seed) for seed in sorted(revision.curves["seed"].unique()))
    return f"{data['name']}, protocol {data['protocol']}, split {data['split']}, {data['videos']} videos, seeds {seeds}"


def _data_of(comparison: Comparison) -> str:
    """What the numbers are of, said once where it is the same for all."""
    described: dict[str, list[str]] = {}
    for revision in comparison.revisions:
        described.setdefault(describe_data(revision), []).append(revision.name)
    if len(described) == 1:
        return f"Data: {next(iter(described))}."
    return "Data: " + "; ".join(f"{', '.join(names)}: {text}" for text, names in described.items()) + "."


def _banners(revisions: Sequence[Revision]) -> list[str]:
    """What a reader has to know before any number."""
    banners = []
    synthetic = [revision.name for revision in revisions if revision.data["name"] == SYNTHETIC_NAME]
    if synthetic:
        whose = "" if len(synthetic) == len(revisions) else f" ({', '.join(synthetic)})"
        banners.append(
            f"Synthetic data{whose}: these numbers say nothing about FPHA and cannot be compared with the paper's."
        )
    validation = [revision.name for revision in revisions if revision.data["split"] != "test"]
    if validation:
        banners.append(f"Not the test split: {', '.join(validation)}.")
    for revision in revisions:
        if revision.lineage.stale:
            banners.append(
                f"{revision.name} is stale: its results no longer belong to its code and settings, see below."
            )
    return banners


def _links(
    revision: Revision, table: Table, ratio: float, addresses: Mapping[str, str]
) -> list[tuple[int, str | None]]:
    """(seed, address of the run) of each cell at a ratio; None where the store has no such run."""
    cells = revision.cells
    same = (cells["direction"] == table.direction) & (cells["method"] == table.method) & (cells["ratio"] == ratio)
    chosen = cells[same].sort_values("seed")
    return [
        (int(seed), addresses.get(str(digest))) for seed, digest in zip(chosen["seed"], chosen["weights"], strict=True)
    ]
