"""A little git and DVC project with hand-written label-efficiency curves: two ratios, three seeds, five videos."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from ruamel.yaml import YAML

SOURCE = Path(__file__).parents[1] / "src"
VIDEOS = ("palm_1", "palm_2", "fist_1", "fist_2", "fist_3")
JOINTS = (7, 11, 13, 3, 5)  # counted joints of each video
RATIOS, SEEDS = (0.15, 0.4), (0, 1, 2)
METHODS = ("baseline", "weak")
REPORTS = ("curves.csv", "per_video.csv", "seed_mean.csv", "cells.csv", "metrics.json")
ROOT_YAML = """\
stages:
  prepare:
    cmd: cp data/raw.txt data/prepared
    deps: [data/raw.txt, src/gesturepose/data.py]
    outs: [data/prepared]
"""
WEAK_YAML = """\
vars: [../../params.yaml]
stages:
  pose:
    matrix: {seed: "${weak.seeds}"}
    wdir: ../..
    cmd: cp data/prepared data/weak/${item.seed}.txt
    deps: [data/prepared, src/gesturepose/models, src/gesturepose/losses.py]
    params: [network, weak.train_steps, weak.learning_rate]
    outs: ["data/weak/${item.seed}.txt"]
  collect:
    wdir: ../..
    cmd: "true"
    deps: [data/weak, src/gesturepose/metrics.py]
    params: [weak.ratios]
    outs:
REPORTS
""".replace("REPORTS", "\n".join(f"      - reports/weak/{name}: {{cache: false}}" for name in REPORTS))
PLOTS_YAML = """\
plots:
  - Label efficiency, pose:
      template: label_curve
      title: pose pck_30
      x: ratio
      y:
        ../../reports/weak/curves.csv: value
  - Label efficiency, gesture:
      template: label_curve
      title: gesture accuracy
      x: ratio
      y:
        ../../reports/weak/curves.csv: value
"""
FILES = {
    "dvc.yaml": ROOT_YAML,
    "pipelines/weak/dvc.yaml": WEAK_YAML + PLOTS_YAML,
    "src/gesturepose/data.py": "CROP = 64\n",
    "src/gesturepose/metrics.py": "PCK = 30\n",
    "src/gesturepose/losses.py": "WEIGHT = 1\n",
    "src/gesturepose/models/pose.py": "CHANNELS = 8\n",
    "src/gesturepose/models/deep/trunk.py": "DEPTH = 18\n",
    "src/gesturepose/models/größe.py": "SIZE = 1\n",
    "src/gesturepose/plots.py": "COLOUR = 'blue'\n",
    "data/raw.txt": "raw\n",
    ".gitignore": "/.gesturepose/\n/reports/compare/\n__pycache__/\n*.pyc\n/data/prepared\n/data/weak\n",
    ".dvcignore": "__pycache__/\n*.pyc\n",
}
PARAMS: dict[str, Any] = {
    "network": {"channels": 8, "streams": ["zero", "first_slow"]},
    "weak": {"ratios": [*RATIOS], "seeds": [*SEEDS], "train_steps": 400, "learning_rate": 0.000001},
    "evaluate": {"bootstrap": 1000},
}


def shell(root: Path, *command: str) -> str:
    dropped = ("DVC_", "MLFLOW_", "GIT_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(dropped)}
    environment |= {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1", "DVC_NO_ANALYTICS": "1"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def hits(method: str, ratio: float, seed: int, video: int, level: int) -> int:
    """Joints within 30 mm, made up: they rise with `level`, and weak supervision lies above the baseline."""
    share = 0.3 + 0.1 * (method == "weak") * level + 0.2 * (ratio > 0.2) + 0.04 * seed - 0.03 * video
    return round(JOINTS[video] * share)


def is_correct(method: str, ratio: float, seed: int, video: int, level: int) -> int:
    return int((3 * video + 2 * seed + 5 * (ratio > 0.2) + 4 * level * (method == "weak")) % 7 > 2)


def write_reports(
    root: Path,
    *,
    level: int,
    ratios: tuple[float, ...] = RATIOS,
    seeds: tuple[int, ...] = SEEDS,
    videos: tuple[str, ...] = VIDEOS,
    methods: tuple[str, ...] = METHODS,
    data: dict[str, Any] | None = None,
) -> None:
    per_video, curves, cells, means = [], [], [], []
    for direction in ("pose", "gesture"):
        for method in methods:
            for ratio in ratios:
                right = {}
                for seed in seeds:
                    cell = {"direction": direction, "method": method, "ratio": ratio, "seed": seed}
                    rows = []
                    for number, video in enumerate(videos):
                        row = {**cell, "video": video}
                        if direction == "pose":
                            within = hits(method, ratio, seed, number, level)
                            row |= {"joints": JOINTS[number], "hits_20": 0, "hits_25": within // 2, "hits_30": within}
                            row |= {"error_mm": 25.0 * JOINTS[number], "correct": ""}
                        else:
                            row |= {"correct": is_correct(method, ratio, seed, number, level)}
                            right.setdefault(video, []).append(row["correct"])
                        rows.append(row)
                    per_video += rows
                    labelled = {**cell, "labelled_videos": round(40 * ratio)}
                    if direction == "pose":
                        share = sum(row["hits_30"] for row in rows) / sum(row["joints"] for row in rows)
                        curves.append({**labelled, "metric": "pck_30", "value": share})
                        curves.append({**labelled, "metric": "mean_error_mm", "value": 25.0})
                    else:
                        share = sum(row["correct"] for row in rows) / len(rows)
                        curves.append({**labelled, "metric": "accuracy", "value": share})
                    digest = hashlib.sha256(f"{direction} {method} {ratio} {seed} {level}".encode()).hexdigest()
                    cells.append({**cell, "weights": digest})
                means += [
                    {"direction": direction, "method": method, "ratio": ratio, "video": video, "correct": votes[0]}
                    for video, votes in right.items()
                ]
    folder = root / "reports" / "weak"
    folder.mkdir(parents=True, exist_ok=True)
    tables = {"curves": curves, "per_video": per_video, "seed_mean": means, "cells": cells}
    for name, table in tables.items():
        pd.DataFrame(table).to_csv(folder / f"{name}.csv", index=False)
    facts = {
        "name": "synthetic",
        "protocol": "official",
        "split": "test",
        "videos": len(videos),
        "fingerprint": "5f" * 32,
    }
    (folder / "metrics.json").write_text(json.dumps({"data": facts | (data or {}), "area": {"weak": 0.5}}))


def write_params(root: Path, **weak: Any) -> None:
    values = {**PARAMS, "weak": {**PARAMS["weak"], **weak}}
    with (root / "params.yaml").open("w") as stream:
        YAML(typ="safe").dump(values, stream)


def commit(root: Path, message: str, *, tag: str = "") -> None:
    """Write dvc.lock with DVC's own sums of what lies there, and commit all."""
    values = YAML(typ="safe").load((root / "params.yaml").read_text())
    shutil.rmtree(root / "data" / "weak", ignore_errors=True)  # of other seeds, too
    (root / "data" / "weak").mkdir(parents=True)
    shutil.copy(root / "data" / "raw.txt", root / "data" / "prepared")
    for seed in values["weak"]["seeds"]:
        (root / f"data/weak/{seed}.txt").write_text(f"weights of {seed}\n")
    shell(root, "dvc", "commit", "-q", "-f", "dvc.yaml", "pipelines/weak/dvc.yaml")
    shell(root, "git", "add", "-A")
    shell(root, "git", "commit", "-q", "-m", message)
    if tag:
        shell(root, "git", "tag", tag)


def build(root: Path) -> Path:
    """`empty` has no curve; `first` and `second` differ in level, loss and steps; `third` in what was measured."""
    for name, text in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    shell(root, "git", "init", "-q", "-b", "trunk")
    for key, value in (("user.email", "someone@example.org"), ("user.name", "Someone")):
        shell(root, "git", "config", key, value)
    shell(root, "dvc", "init", "-q")
    (root / ".dvc" / "plots").mkdir()
    shutil.copy(SOURCE.parent / ".dvc/plots/label_curve.json", root / ".dvc" / "plots")
    write_params(root)
    shell(root, "git", "add", "-A")
    shell(root, "git", "commit", "-q", "-m", "No curve yet")
    shell(root, "git", "tag", "empty")

    write_reports(root, level=1)
    commit(root, "The first curve", tag="first")
    (root / "src/gesturepose/losses.py").write_text("WEIGHT = 2\n")
    (root / "src/gesturepose/plots.py").write_text("COLOUR = 'orange'\n")
    write_params(root, train_steps=500)
    write_reports(root, level=3)
    commit(root, "A better one", tag="second")
    write_params(root, train_steps=500, ratios=[0.15, 0.25], seeds=[0, 1])
    write_reports(
        root,
        level=3,
        ratios=(0.15, 0.25),
        seeds=(0, 1),
        videos=("palm_0", *VIDEOS[1:]),
        data={"fingerprint": "6a" * 32},
    )
    commit(root, "Other ratios, seeds and videos", tag="third")
    return root
