"""The report: one self-contained HTML page, and the figures on it, from what the stages wrote.

`read_inputs` does the reading and drawing, `render_page` is pure. The page holds no time, commit, path or host: equal
artefacts give equal bytes. Fractions become percentages with one decimal; published values stand as they were printed.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from gesturepose import plots
from gesturepose.checkpoint import write_atomically
from gesturepose.data.fpha_files import FPHA_NAME
from gesturepose.data.prepared import Index, PreparedData
from gesturepose.errors import InputError
from gesturepose.evaluation import CONVENTIONS, load_predictions, shown_key
from gesturepose.geometry import image_to_crop
from gesturepose.params import STREAMS, NetworkSettings, Params
from gesturepose.structures import SYNTHETIC_NAME, Predictions

CONTENTS: Final = (
    ("results", "Results"),
    ("paper", "Beside the paper"),
    ("published", "Published results"),
    ("pose", "Pose"),
    ("gestures", "Gestures"),
    ("training", "Training"),
    ("provenance", "Provenance"),
    ("settings", "Settings"),
    ("reproduce", "Reproduce"),
)
_NESTED: Final = {"weak", "ablation", "search"}  # sections of other pipelines, which stand on their pages
_SCORES: Final = ("pck_20", "pck_25", "pck_30", "auc", "mean_error_mm")
_REQUIRED: Final = (  # in metrics.json
    *(f"gesture.{key}{end}" for key in ("accuracy", "macro_accuracy") for end in ("", "_low", "_high")),
    "gesture.chance",
    *(
        f"pose.{alignment}.{joints}.{score}{end}"
        for alignment in ("root_aligned", "camera")
        for joints in ("joints21", "joints20")
        for score in _SCORES
        for end in ("", "_low", "_high")
    ),
    *(f"pose.error_2d_px{end}" for end in ("", "_low", "_high")),
    *(f"pose.baselines.{source}.{score}" for source in ("mean_pose", "nearest_frame") for score in _SCORES),
    *(f"data.{key}" for key in ("name", "protocol", "videos", "unreadable_videos", "frames", "unreadable_frames")),
)


@dataclass(frozen=True)
class FigureFile:
    """A figure as it stands on the page."""

    title: str
    caption: str
    png: bytes

    @property
    def base64(self) -> str:
        return base64.b64encode(self.png).decode()

    @property
    def width(self) -> int:
        """CSS px (96 an inch) at which its type is as large as it was drawn."""
        return round(int.from_bytes(self.png[16:20], "big") / plots.DOTS_PER_INCH * 96)

    @property
    def min_width(self) -> int:
        """CSS px below which the type is too small: a narrow screen scrolls."""
        return round(0.62 * self.width)


@dataclass(frozen=True)
class PageInputs:
    """Everything the page says."""

    metrics: Mapping[str, Any]  # metrics.json
    params: Params
    index: Index  # of the prepared data
    per_class: pd.DataFrame  # gesture, videos, correct, accuracy
    figures: Mapping[str, FigureFile]  # pck_curve, qualitative, confusion, per_class, and training_* in order
    fingerprints: tuple[tuple[str, str], ...]  # (of what, SHA-256)


def read_inputs(
    params: Params,
    *,
    evaluation: Path,
    prepared: Path,
    predictions: Path,
    weights: Path,
    histories: Mapping[str, Path],
) -> PageInputs:
    """Read the artefacts and draw the figures.

    Args:
        evaluation: the folder with metrics.json and the tables of the evaluate stage.
        prepared: the folder of the prepare stage.
        predictions: the archive of the evaluate stage.
        weights: the trained network's file.
        histories: history.csv by the name of its stage, in the order of the stages.

    Raises:
        InputError: an artefact is missing or broken; the message names it and the stage that writes it.
    """
    metrics = _read_metrics(evaluation / "metrics.json")
    confusion = _read_table(evaluation / "confusion.csv", "evaluate", ("actual", "predicted"), text=True)
    curve_columns = ("alignment", "joints", "source", "threshold_mm", "pck")
    curve = _read_table(evaluation / "pck_curve.csv", "evaluate", curve_columns)
    per_class = _read_table(evaluation / "per_class.csv", "evaluate", ("gesture", "videos", "correct"), text=True)
    columns = ("epoch", "split", "loss", "learning_rate")
    tables = {stage: _read_table(path, stage, columns) for stage, path in histories.items()}
    data = PreparedData.open(prepared)
    unknown = sorted((set(confusion["actual"]) | set(confusion["predicted"])) - set(data.gestures))
    if metrics["data"]["name"] != data.name or unknown:
        raise InputError("is not of the prepared data", file=evaluation / "metrics.json", hint=_again("evaluate"))
    archive = load_predictions(predictions)
    settings = json.dumps(shown_settings(params), sort_keys=True).encode()
    fingerprints = (
        ("prepared data", data.fingerprint),
        ("settings", hashlib.sha256(settings).hexdigest()),
        ("trained weights", _digest(weights, "train")),
        ("predictions", _digest(predictions, "evaluate")),
    )
    choices = plots.choose_examples(archive)
    examples, pictures = _examples(archive, choices, data, predictions)
    figures = {
        "pck_curve": FigureFile(
            "3D PCK over the error threshold",
            "As in Fig. 4 (left) of the paper: 21 joints, all test videos. The dots are the thresholds of Table 2. The "
            "baselines know the training split alone and are root-aligned.",
            plots.figure_png(plots.pck_figure(curve)),
        ),
        "qualitative": FigureFile(
            "Examples",
            "As in Fig. 5 of the paper. Test videos ranked by mean root-aligned error: the 10th percentile, median, "
            "90th percentile and the worst; of each, the readable frame of median error. In 2D the thumb is vermilion, "
            f"the index orange, the middle green, the ring blue, the little finger purple. {pictures}",
            plots.figure_png(plots.qualitative_figure(examples)),
        ),
        "confusion": FigureFile(
            "Confusion matrix",
            "Number of test videos by true and predicted gesture; shading is the share of the row.",
            plots.figure_png(plots.confusion_figure(confusion, data.gestures)),
        ),
        "per_class": FigureFile(
            "Accuracy of each gesture",
            "Best first, with the number of test videos.",
            plots.figure_png(plots.per_class_figure(confusion, data.gestures)),
        ),
    }
    for stage, table in tables.items():
        figures[f"training_{stage}"] = FigureFile(
            f"Stage {stage}, by epoch",
            "Dotted vertical lines: the learning rate falls. Training losses are of augmented clips.",
            plots.figure_png(plots.training_figure(table)),
        )
    return PageInputs(metrics, params, data.index, per_class, figures, fingerprints)


def template_environment(folder: str) -> Environment:
    """The templates in a folder of the package; a value that is missing is an error."""
    return Environment(
        loader=PackageLoader("gesturepose", folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def render_page(inputs: PageInputs) -> str:
    """The page as HTML; equal inputs give equal text."""
    metrics, params, index = inputs.metrics, inputs.params, inputs.index
    gesture, pose = metrics["gesture"], metrics["pose"]
    environment = template_environment("templates")
    environment.filters |= {"percent": percent, "percent_to": percent_to, "css": lambda value: f"{100 * value:.2f}%"}
    confidence = f"{100 * params.evaluate.confidence:g} %"
    is_fpha = index.name == FPHA_NAME
    return environment.get_template("page.html.j2").render(
        data_name=index.name,
        protocol=index.protocol,
        gestures=index.gestures,
        counts=_counts(index),
        scored_videos=metrics["data"]["videos"] - metrics["data"]["unreadable_videos"],
        scored_frames=f"{metrics['data']['frames'] - metrics['data']['unreadable_frames']:,}",
        banners=_banners(index),
        contents=CONTENTS,
        gesture=gesture,
        pose=pose,
        headline=pose["root_aligned"]["joints21"],
        baselines=pose["baselines"],
        best_baseline=max((source["pck_30"], name) for name, source in pose["baselines"].items()),
        gap=gap_closed(pose),
        interval_name=f"{confidence} interval",
        interval_text=f"Intervals: {confidence}, percentiles of a bootstrap over the test videos, "
        f"{params.evaluate.bootstrap:,} resamples.",
        params=params,
        rows=paper_rows(params.network),
        is_fpha=is_fpha,
        classes=inputs.per_class[["gesture", "videos", "correct"]].to_dict("records"),
        figures=inputs.figures,
        training_figures=[name for name in inputs.figures if name.startswith("training_")],
        provenance=_provenance(inputs),
        fingerprints=inputs.fingerprints,
        conventions=tuple(CONVENTIONS.items()),
        settings=[
            (section, [(key, _setting(value)) for key, value in values.items()])
            for section, values in shown_settings(params).items()
        ],
    )


def shown_settings(params: Params) -> dict[str, dict[str, Any]]:
    """The settings of the root pipeline, which its page shows."""
    return params.model_dump(mode="json", exclude=_NESTED)


def percent(share: float) -> str:
    """0.7143 → 71.4 %"""
    return f"{100 * share:.1f}\u00a0%"


def percent_to(low: float, high: float) -> str:
    """0.619, 0.81 → 61.9–81.0 %"""
    return f"{100 * low:.1f}–{100 * high:.1f}\u00a0%"


def gap_closed(pose: Mapping[str, Any]) -> float | None:
    """The share of the way from the better baseline to 1 that PCK@30 (root-aligned, 21 joints) goes; None at no gap."""
    best = max(source["pck_30"] for source in pose["baselines"].values())
    return None if best >= 1.0 else (pose["root_aligned"]["joints21"]["pck_30"] - best) / (1.0 - best)


def paper_rows(network: NetworkSettings) -> dict[str, str]:
    """The rows of Tables 1, 3 and 4 that have these settings, by table; a table without such a row is absent."""
    streams = frozenset(network.streams)
    everything, zero = frozenset(STREAMS), frozenset({"zero"})
    rows = {}
    steps = {
        (1, zero, False): "baseline",
        (1, zero, True): "multi_scale",
        (1, everything, True): "multi_order",
        (2, everything, True): "complete",
    }
    if row := steps.get((network.iterations, streams, network.multi_scale)):
        rows["table1"] = row
    if network.multi_scale and streams == zero:
        rows["table3"] = str(network.iterations)
    motions = {
        zero: "zero",
        frozenset({"zero", "first_slow", "first_fast"}): "first",
        frozenset({"zero", "second_slow", "second_fast"}): "second",
        frozenset({"zero", "first_slow", "second_slow"}): "slow",
        frozenset({"zero", "first_fast", "second_fast"}): "fast",
        everything: "all",
    }
    if network.multi_scale and network.iterations == 2 and streams in motions:
        rows["table4"] = motions[streams]
    return rows


def write_page(inputs: PageInputs, path: Path) -> None:
    """Write `render_page(inputs)`: all of it or nothing."""
    write_atomically(path, render_page(inputs).encode())


def write_figures(inputs: PageInputs, folder: Path) -> None:
    """Write each figure of the page as `<name>.png`."""
    for name, figure in inputs.figures.items():
        write_atomically(folder / f"{name}.png", figure.png)


def _examples(
    predictions: Predictions, choices: Sequence[plots.Choice], data: PreparedData, path: Path
) -> tuple[list[plots.Example], str]:
    """The rows of the qualitative figure, and what to say about their pictures."""
    start = {video.key: video.start for video in data.videos}
    shown = data.name == SYNTHETIC_NAME
    examples = []
    for choice in choices:
        key, frame = str(predictions.keys[choice.video]), int(predictions.frame[choice.row])
        if key not in start or start[key] + frame >= len(data.frames):
            raise InputError(f"the prepared data has no {key}, frame {frame}", file=path, hint=_again("evaluate"))
        row = start[key] + frame
        predicted_uv, true_uv = (
            image_to_crop(uv[choice.row].astype(np.float64), data.boxes[row], data.image_size)
            for uv in (predictions.uv_px, predictions.true_uv_px)
        )
        examples.append(
            plots.Example(
                title=f"{choice.label}: {shown_key(key, data.name)}, frame {frame}, "
                f"mean error {choice.error_mm:.1f} mm",
                picture=np.asarray(data.frames[row]) if shown else None,
                size=data.image_size,
                uv_crop_px=predicted_uv,
                true_uv_crop_px=true_uv,
                joints_cam_mm=predictions.joints_cam_mm[choice.row],
                true_joints_cam_mm=predictions.true_joints_cam_mm[choice.row],
            )
        )
    note = "The pictures are the crops that the network sees."
    return examples, note if shown else "Frames are left out: only those of synthetic data are ours to pass on."


def _banners(index: Index) -> list[str]:
    """What a reader has to know before any number."""
    banners = []
    if index.name != FPHA_NAME:
        data = "Synthetic data" if index.name == SYNTHETIC_NAME else f"Data “{index.name}”"
        banners.append(f"{data}: these numbers say nothing about FPHA and cannot be compared with the paper's.")
    elif index.protocol != "official":
        banners.append(f"Protocol {index.protocol}: the published numbers are of the official split.")
    for what, keys in (("missing", index.missing), ("left out by the settings", index.excluded)):
        if keys:
            banners.append(f"Part of the data only: {len(keys)} sequences of the split are {what}.")
    return banners


def _counts(index: Index) -> dict[str, dict[str, int]]:
    videos: Counter[str] = Counter(video.split for video in index.videos)
    return {
        split: {"videos": videos[split], "frames": sum(v.frames for v in index.videos if v.split == split)}
        for split in ("train", "validation", "test")
    }


def _provenance(inputs: PageInputs) -> list[tuple[str, str]]:
    params, index, counted = inputs.params, inputs.index, inputs.metrics["data"]
    rows = [("data", index.name), ("protocol", index.protocol)]
    if index.protocol == "leave_one_person_out":
        rows.append(("test subject", str(params.data.held_out_subject)))
    for split, count in _counts(index).items():
        rows.append((split, f"{count['videos']:,} videos, {count['frames']:,} frames"))
    network = params.network
    unreadable = f"{counted['unreadable_frames']:,} frames, {counted['unreadable_videos']:,} whole videos"
    kept = "the epoch with the best validation value" if params.train.select == "best" else "the last epoch"
    return [
        *rows,
        ("unreadable in test", unreadable),
        ("missing, left out", f"{len(index.missing)}, {len(index.excluded)} sequences"),
        ("headline pose", "root-aligned (wrist on wrist), 21 joints, every annotated joint of every readable frame"),
        ("given as in truth", f"the hand's box (one a {index.crop}) and the wrist's depth"),
        ("seeds", "; ".join(f"{name} {seed}" for name, seed in _seeds(params))),
        ("weights kept", f"{kept}; the evaluation alone sees the test videos"),
        ("network", f"{network.backbone}, {network.iterations} iterations, {len(network.streams)} streams, "
                    f"crops of {index.image_size} px"),
    ]  # fmt: skip


def _seeds(params: Params) -> list[tuple[str, int]]:
    generate = [("generate", params.generate.seed)] if params.generate.sets else []
    return [
        *generate,
        ("validation split", params.data.split_seed),
        ("finetune", params.finetune.seed),
        ("train", params.train.seed),
    ]


def _setting(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _again(stage: str) -> str:
    return f"The {stage} stage writes it: run `dvc repro {stage}`."


def _read_metrics(path: Path) -> dict[str, Any]:
    try:
        metrics = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file", file=path, hint=_again("evaluate")) from None
    except ValueError as error:
        raise InputError(f"not JSON: {error}", file=path, hint=_again("evaluate")) from None
    for key in _REQUIRED:
        node: Any = metrics
        for part in key.split("."):
            node = node.get(part) if isinstance(node, dict) else None
        if node is None:
            raise InputError(f"the key {key} is missing", file=path, hint=_again("evaluate"))
    return metrics


def _read_table(path: Path, stage: str, columns: Sequence[str], *, text: bool = False) -> pd.DataFrame:
    """A CSV with at least `columns`; `text` keeps every cell as it stands (a gesture may be called NA)."""
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False) if text else pd.read_csv(path)
    except FileNotFoundError:
        raise InputError("no such file", file=path, hint=_again(stage)) from None
    except ValueError as error:  # pandas' ParserError and EmptyDataError are ValueErrors
        raise InputError(f"not a table: {error}", file=path, hint=_again(stage)) from None
    missing = [column for column in columns if column not in table]
    if missing or table.empty:
        what = f"the column {missing[0]} is missing" if missing else "the table has no rows"
        raise InputError(what, file=path, hint=_again(stage))
    return table


def _digest(path: Path, stage: str) -> str:
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError:
        raise InputError("no such file", file=path, hint=_again(stage)) from None
