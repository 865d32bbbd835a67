"""The README says what the committed results say, and names what is there."""

import json
import re
from pathlib import Path

import pandas as pd
from typer.testing import CliRunner

from gesturepose.cells import DIRECTIONS
from gesturepose.cli import app
from gesturepose.label_curves import at
from gesturepose.params import load_params
from gesturepose.wording import p_value, points

PROJECT = Path(__file__).parent.parent
README = (PROJECT / "README.md").read_text()


def test_results_are_those_of_the_committed_metrics():
    metrics = json.loads((PROJECT / "reports/evaluate/metrics.json").read_text())
    gesture, pose = metrics["gesture"], metrics["pose"]
    root, camera = (pose[alignment]["joints21"] for alignment in ("root_aligned", "camera"))

    def interval(scores, name):
        value, low, high = (100 * scores[name + end] for end in ("", "_low", "_high"))
        return f"{value:.1f} %", f"({low:.1f}–{high:.1f})"

    for name, scores in (("accuracy", gesture), ("pck_30", root), ("pck_30", camera)):
        assert all(part in README for part in interval(scores, name))
    baselines = pose["baselines"]
    for share in (gesture["chance"], root["pck_20"], root["pck_25"], *(b["pck_30"] for b in baselines.values())):
        assert f"{100 * share:.1f} %" in README
    assert f"{root['auc']:.3f}" in README and f"{baselines['mean_pose']['auc']:.3f}" in README
    for error in (root["mean_error_mm"], camera["mean_error_mm"], baselines["mean_pose"]["mean_error_mm"]):
        assert f"{error:.1f} mm" in README
    assert f"{metrics['data']['videos']} videos, {metrics['data']['frames']:,} frames" in README


def test_curves_are_those_of_the_committed_metrics():
    metrics = json.loads((PROJECT / "reports/weak/metrics.json").read_text())
    section = README.split("## Weak supervision")[1].split("\n## ")[0]
    rows = {line.split("|")[1].strip(): line for line in section.splitlines() if re.match(r"\| \d", line)}
    ratios = load_params(PROJECT / "params.yaml").weak.ratios
    assert list(rows) == [f"{100 * ratio:g} %" for ratio in ratios]
    for ratio, line in zip(ratios, rows.values(), strict=True):
        for direction in DIRECTIONS:
            found, gain = metrics[direction], metrics[direction]["weak"]["gain"][at(ratio)]
            assert f"{100 * found['baseline'][at(ratio)]:.1f} → {100 * found['weak'][at(ratio)]:.1f} %" in line
            told = (
                f"{points(gain['value'])} ({points(gain['low'])} to {points(gain['high'])}), {p_value(gain['p_holm'])}"
            )
            assert told.replace("\u00a0", " ") in line
    assert f"{metrics['data']['videos']} {metrics['data']['split']} videos" in section


def test_tables_are_those_of_the_committed_results():
    found = pd.read_csv(PROJECT / "reports/ablation/tables.csv")
    section = README.split("## Ablations")[1].split("\n## ")[0]
    lines = [[part.strip() for part in line.split("|")[1:5]] for line in section.splitlines() if line.startswith("| ")]
    quoted = {label: numbers for label, *numbers in lines[1:]}
    assert len(quoted) >= 8 and set(quoted) <= set(found["label"])
    for row in found[found["table"].isin(["table_1", "own", "references"])].itertuples():
        if row.label in quoted:
            accuracy, pck, paper = quoted[row.label]
            assert accuracy == f"{100 * row.accuracy_mean:.1f} ± {100 * row.accuracy_std:.1f} %"
            has_pose = not pd.isna(row.pck_30_mean)
            assert pck == (f"{100 * row.pck_30_mean:.1f} ± {100 * row.pck_30_std:.1f} %" if has_pose else "")
            assert paper == ("" if pd.isna(row.paper_accuracy) else f"{100 * row.paper_accuracy:.2f} %")


def test_the_study_is_that_of_the_committed_metrics():
    metrics = json.loads((PROJECT / "reports/search/metrics.json").read_text())
    section = README.split("## Searching settings")[1].split("\n## ")[0]
    (best,) = metrics["best"]
    told = [f"{100 * best[name]:.1f} %" for name in ("value", "accuracy", "pck_30")]
    assert (
        f"best of {metrics['study']['trials']} trials has a value of {told[0]} (accuracy {told[1]}, PCK@30 {told[2]})"
        in section
    )
    assert f"{metrics['data']['videos']} validation videos" in section
    lines = {line.split("|")[1].strip(): line for line in section.splitlines() if line.startswith("| ")}
    assert set(lines) == {"pruner", *metrics["replay"]}
    for pruner, found in metrics["replay"].items():
        saved, regret = ({key: 100 * value for key, value in found[name].items()} for name in ("saved", "regret"))
        assert f"{saved['mean']:.1f} % ({saved['low']:.1f} to {saved['high']:.1f})" in lines[pruner]
        assert f"{regret['mean']:.2f} ({regret['low']:.2f} to {regret['high']:.2f})" in lines[pruner]


def test_the_demo_is_better_than_its_baselines_by_the_promised_margins():
    """Five times chance, and half of the way from the better baseline to 1."""
    metrics = json.loads((PROJECT / "reports/evaluate/metrics.json").read_text())
    assert metrics["gesture"]["accuracy"] >= 5 * metrics["gesture"]["chance"]
    best = max(baseline["pck_30"] for baseline in metrics["pose"]["baselines"].values())
    assert metrics["pose"]["root_aligned"]["joints21"]["pck_30"] >= best + 0.5 * (1.0 - best)


def test_speeds_are_those_of_the_committed_table():
    """Each line of the summary: value, plain value and ratio of one row of bench.json, as bench.md shows them."""
    rows = [
        (number(row["value"]), number(row["baseline_value"]), f"{row['ratio']:.2f}")
        for row in json.loads((PROJECT / "reports/bench/bench.json").read_text())["rows"]
        if row["value"] is not None and row["ratio"] is not None
    ]
    summary = README.split("## Speed")[1].split("\n## ")[0]
    lines = [[cell.strip() for cell in line.split("|")[2:5]] for line in summary.splitlines() if line.startswith("| ")]
    quoted = [tuple(cells) for cells in lines if cells[2] != "ratio"]
    assert len(quoted) >= 6
    for line in quoted:
        assert line in rows, line


def number(value):
    """Three digits that count."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.3g}"


def test_commands_and_files_exist():
    commands = set(CliRunner().invoke(app, ["--help"]).output.split())
    for command in re.findall(r"gesturepose (\w+)", README):
        assert command in commands, command
    targets = set(re.findall(r"^([a-z]+):", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE))
    for target in re.findall(r"(?:^|`)make (\w+)", README, flags=re.MULTILINE):
        assert target in targets, target
    tree = README.split("## What is where")[1].split("```")[1]
    for name in re.findall(r"(?<!\S)(\w+\.py|\w+/)", tree):
        places = (PROJECT, PROJECT / "src", PROJECT / "src/gesturepose")
        assert any((place / name).exists() for place in places), name
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", README):
        assert (PROJECT / picture).stat().st_size > 10_000
