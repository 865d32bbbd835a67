"""The table as bench.json and bench.md."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict

from gesturepose.bench.machine import Machine
from gesturepose.bench.measure import Row, Section
from gesturepose.bench.steps import SETTINGS
from gesturepose.checkpoint import write_atomically

_EXPLANATION: Final = """\
Written by `make bench`, and valid for this machine. A row and its baseline are measured in turn within one run, after a
warm-up.

- value, its value: the median over the repeats, of the row and of its baseline.
- ratio: how many times as good as the baseline, as fast or as little memory; above 1 the row is better. It is the
  median of the repeats' own ratios, so that what slows a whole repeat cancels.
- 95 %: the ratio's interval, from a bootstrap over the repeats. With one repeat it is the ratio itself, with a few
  little more than their range.
- repeats, spread: how often it was measured, and the interquartile range of the values over their median. Memory is
  counted exactly, and once.
- A row that this machine cannot fill says "not measured" and why.
"""
_ADVICE: Final = """\
What changing one setting of params.yaml's runtime section does to the training step on this machine, by the rows of
"{title}". Nothing is changed by it. Settings change the weights' last bits, and bfloat16 more than that.
"""
_HEAD: Final = """\
| what | value | unit | baseline | its value | ratio | 95 % | repeats | spread |
|---|---:|---|---|---:|---:|---:|---:|---:|"""


class Table(BaseModel):
    """bench.json."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    machine: Machine
    commit: str
    dirty: bool  # there were uncommitted changes
    sections: list[Section]
    rows: list[Row]  # each with the title of its section


def write_table(table: Table, folder: Path) -> None:
    """bench.json and bench.md in `folder`."""
    write_atomically(folder / "bench.json", (table.model_dump_json(indent=1) + "\n").encode())
    write_atomically(folder / "bench.md", markdown(table).encode())


def markdown(table: Table) -> str:
    """The table for reading: a part for each section that has rows, then what the settings' rows recommend."""
    machine = table.machine
    parts = [
        "# Speed and memory\n",
        _EXPLANATION,
        f"""\
- Commit: {table.commit}{", with uncommitted changes" if table.dirty else ""}
- Processor: {machine.cpu}, {machine.cores} cores, {machine.memory_gib:g} GiB
- Features: {", ".join(machine.cpu_features) or "unknown"}
- GPU: {machine.gpu or "none"}
- Versions: Python {machine.python}, PyTorch {machine.torch}, OpenCV {machine.opencv}, NumPy {machine.numpy}
- params.yaml's runtime: {machine.device}, {machine.precision}, threads {machine.threads}, \
channels_last {_on(machine.channels_last)}, compile {_on(machine.compile)}, deterministic {_on(machine.deterministic)}
- Load of the machine in the minute before: {machine.load_before:g}
""",
    ]
    for section in table.sections:
        rows = [entry for entry in table.rows if entry.section == section.title]
        if rows:
            lines = "\n".join([_HEAD, *map(_line, rows)])
            parts.append(f"## {section.title}\n\n{section.about}\n\n{lines}\n")
    if advice := recommendations(table.rows):
        listed = "\n".join(f"- {sentence}" for sentence in advice)
        parts.append(f"## Recommended settings\n\n{_ADVICE.format(title=SETTINGS.title)}\n{listed}\n")
    return "\n".join(parts)


def recommendations(rows: list[Row]) -> list[str]:
    """A sentence for each setting that was measured. A change is recommended where its whole interval is above 1."""
    sentences = []
    for entry in rows:
        if (
            entry.section != SETTINGS.title
            or entry.ratio is None
            or entry.ratio_low is None
            or entry.ratio_high is None
        ):
            continue
        advice = "yes" if entry.ratio_low > 1 else "no" if entry.ratio_high < 1 else "no difference was measured"
        interval = f"{_number(entry.ratio_low)}–{_number(entry.ratio_high)}"
        sentences.append(f"`{entry.name}`: {advice}; {_number(entry.ratio)} times as fast ({interval}).")
    return sentences


def _line(entry: Row) -> str:
    cells = [
        entry.name,
        _number(entry.value) if entry.not_measured is None else f"not measured: {entry.not_measured}",
        entry.unit,
        entry.baseline_name or "",
        _number(entry.baseline_value),
        _number(entry.ratio),
        "" if entry.ratio_low is None else f"{_number(entry.ratio_low)}–{_number(entry.ratio_high)}",
        str(entry.repeats),
        "" if entry.spread is None else f"{100 * entry.spread:.0f} %",
    ]
    return f"| {' | '.join(cells)} |"


def _on(setting: bool) -> str:
    return "on" if setting else "off"


def _number(value: float | None) -> str:
    """Three digits that count, without an exponent."""
    if value is None:
        return ""
    for limit, decimals in ((100, 0), (10, 1), (1, 2), (0.1, 3)):
        if abs(value) >= limit:
            return f"{value:,.{decimals}f}"
    return f"{value:.2g}" if abs(value) >= 1e-4 else f"{value:.5f}"
