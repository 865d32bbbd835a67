"""The figures: PCK curves (Fig. 4, left), examples (Fig. 5), confusion matrix, accuracy per class, training curves.

Each `*_figure` function is pure: arrays or tables in, a matplotlib Figure out, no pyplot and no state left behind.
Colours are Okabe and Ito's, and no figure relies on colour alone. Equal figures are written as equal bytes.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, Final, ParamSpec

import numpy as np
import pandas as pd
from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, MultipleLocator, PercentFormatter
from numpy.typing import NDArray

from gesturepose.metrics import confusion_matrix, joint_errors, root_aligned
from gesturepose.skeleton import BONES, FINGERS, WRIST
from gesturepose.structures import Predictions

P = ParamSpec("P")

BLUE, VERMILION, ORANGE, GREEN, PURPLE = "#0072B2", "#D55E00", "#E69F00", "#009E73", "#CC79A7"
GREY, INK = "#6B6B6B", "#1F2328"
FINGER_COLOURS: Final = dict(zip(FINGERS, (VERMILION, ORANGE, GREEN, BLUE, PURPLE), strict=True))
SOURCES: Final = {  # source in pck_curve.csv: label, colour, line
    "network": ("network", BLUE, "-"),
    "nearest_frame": ("nearest training frame", ORANGE, "--"),
    "mean_pose": ("mean training pose", GREY, ":"),
}
ALIGNMENTS: Final = {"root_aligned": "Root-aligned (wrist on wrist)", "camera": "Camera space, true wrist depth given"}
SPLITS: Final = {"train": ("training", BLUE, "-"), "validation": ("validation", VERMILION, "--")}
PARTS: Final = {  # column of history.csv: label, colour, line
    "loss_heatmap": ("heatmaps (2D)", BLUE, "-"),
    "loss_depth": ("depth", VERMILION, "--"),
    "loss_gesture": ("gesture", GREEN, "-."),
}
THRESHOLDS_MM: Final = (20, 25, 30)  # Table 2
DOTS_PER_INCH: Final = 150
# Place among the test videos by error. Where videos are few and two claim one, the earlier here names it.
EXAMPLES: Final = (("worst", 1.0), ("median", 0.5), ("good (10th percentile)", 0.1), ("poor (90th percentile)", 0.9))

# "default" first, so that a user's own matplotlibrc changes nothing.
_STYLE: Final[list[Any]] = [
    "default",
    {
        "font.size": 9.5,
        "axes.titlesize": 10.5,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.titlepad": 8,
        "axes.edgecolor": GREY,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#E4E6E8",
        "grid.linewidth": 0.8,
        "lines.linewidth": 1.8,
        "text.color": INK,
        "xtick.color": GREY,
        "ytick.color": GREY,
        "xtick.labelcolor": INK,
        "ytick.labelcolor": INK,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
        "figure.dpi": DOTS_PER_INCH,
        "savefig.dpi": DOTS_PER_INCH,
    },
]


def _styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with style.context(_STYLE):
            return draw(*args, **kwargs)

    return drawn


def figure_png(figure: Figure) -> bytes:
    """`figure` as PNG without date and version, so that equal figures give equal bytes."""
    buffer = io.BytesIO()
    with style.context(_STYLE):
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


@_styled
def pck_figure(curve: pd.DataFrame, joints: str = "joints21") -> Figure:
    """3D PCK over the threshold (Fig. 4, left), one panel an alignment, the network beside the baselines.

    Args:
        curve: columns alignment, joints, source, threshold_mm, pck (0–1), as in pck_curve.csv.
        joints: joints21, or joints20 without the wrist.
    """
    curve = curve[curve["joints"] == joints]
    panels = [alignment for alignment in ALIGNMENTS if (curve["alignment"] == alignment).any()]
    figure = Figure(figsize=(4.6 * len(panels), 3.9))
    for axes, alignment in zip(_row(figure, len(panels)), panels, strict=True):
        part = curve[curve["alignment"] == alignment]
        for source, (label, colour, line) in SOURCES.items():
            rows = part[part["source"] == source].sort_values("threshold_mm")
            if rows.empty:
                continue
            threshold_mm, pck = rows["threshold_mm"].to_numpy(float), rows["pck"].to_numpy(float)
            axes.plot(threshold_mm, pck, line, color=colour, label=label, zorder=3 if source == "network" else 2)
            if source == "network":
                marks = np.asarray(THRESHOLDS_MM, float)
                axes.plot(marks, np.interp(marks, threshold_mm, pck), "o", color=colour, markersize=4, zorder=4)
        axes.set(title=ALIGNMENTS[alignment], xlabel="error threshold, mm", xlim=(0.0, part["threshold_mm"].max()))
        _share_axis(axes)
    figure.axes[0].set_ylabel(f"3D PCK, {joints.removeprefix('joints')} joints")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(SOURCES))
    return figure


@_styled
def confusion_figure(confusion: pd.DataFrame, gestures: Sequence[str]) -> Figure:
    """Counts of videos by true (rows) and predicted (columns) class, shaded by the share of the row.

    Args:
        confusion: columns actual, predicted (class names), one row a video, as in confusion.csv.
        gestures: the class names by id.
    """
    counts = confusion_counts(confusion, gestures)
    total = counts.sum(axis=1, keepdims=True)
    share = np.divide(counts, total, out=np.zeros(counts.shape), where=total > 0)
    classes = len(gestures)
    side = min(10.5, 2.4 + 0.32 * classes)
    size = float(np.interp(classes, (12, 45), (8.5, 6.0)))
    figure = Figure(figsize=(side + 0.7, side))
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0)
    for row, column in np.argwhere(counts > 0):
        colour = "white" if share[row, column] > 0.55 else INK
        axes.text(column, row, str(counts[row, column]), ha="center", va="center", size=size, color=colour)
    names = [name.replace("_", " ") for name in gestures]
    axes.set_xticks(range(classes), names, rotation=90, size=size)
    axes.set_yticks(range(classes), names, size=size)
    axes.set_xticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(classes + 1) - 0.5, minor=True)
    axes.tick_params(which="both", length=0)
    axes.grid(False)
    axes.grid(which="minor", linewidth=0.6)
    axes.spines[:].set_visible(False)
    axes.set(xlabel="predicted gesture", ylabel="true gesture")
    bar = figure.colorbar(image, ax=axes, shrink=0.5, aspect=30, pad=0.02, format=PercentFormatter(1.0, 0))
    bar.set_label("share of the row's videos", size=8)
    bar.ax.tick_params(labelsize=7.5, length=2)
    bar.outline.set_visible(False)
    return figure


def confusion_counts(confusion: pd.DataFrame, gestures: Sequence[str]) -> NDArray[np.int64]:
    """[A, A] number of videos by true (rows) and predicted (columns) class."""
    position = {name: index for index, name in enumerate(gestures)}
    actual, predicted = (
        np.array([position[name] for name in confusion[column]], np.int64) for column in ("actual", "predicted")
    )
    return confusion_matrix(actual, predicted, len(gestures))


@_styled
def per_class_figure(confusion: pd.DataFrame, gestures: Sequence[str]) -> Figure:
    """Accuracy of each class present, best first, with the number of videos and the lines of the mean and of chance."""
    counts = confusion_counts(confusion, gestures)
    videos = counts.sum(axis=1)
    right = counts.diagonal()
    present = np.flatnonzero(videos)
    accuracy = right[present] / videos[present]
    order = np.lexsort((present, -accuracy))
    present, accuracy = present[order], accuracy[order]
    figure = Figure(figsize=(7.2, 1.3 + 0.24 * len(present)))
    axes = figure.add_subplot()
    rows = np.arange(len(present))
    axes.barh(rows, accuracy, color=BLUE, height=0.68)
    for row, index in enumerate(present):
        axes.text(1.02, row, f"{right[index]} of {videos[index]}", va="center", size=8)
    mean, chance = right.sum() / videos.sum(), 1.0 / len(gestures)
    axes.axvline(mean, color=INK, linewidth=1.2, linestyle="--", label=f"all videos {mean:.1%}")
    axes.axvline(chance, color=VERMILION, linewidth=1.2, linestyle=":", label=f"chance {chance:.1%}")
    axes.set_yticks(rows, [gestures[int(index)].replace("_", " ") for index in present])
    axes.set(xlabel="accuracy", xlim=(0.0, 1.13), ylim=(len(present) - 0.4, -0.6))
    axes.set_xticks(np.linspace(0.0, 1.0, 6))
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, 0))
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


@_styled
def training_figure(history: pd.DataFrame) -> Figure:
    """Loss, its parts, accuracy and PCK@30 over the epochs; a panel without values is left out, rate falls are marked.

    Args:
        history: columns epoch, split (train, validation), loss, and where measured loss_heatmap, loss_depth,
            loss_gesture, accuracy, pck_30, learning_rate.
    """
    history = history.reindex(columns=["epoch", "split", "loss", *PARTS, "accuracy", "pck_30", "learning_rate"])
    parts = [part for part in PARTS if history[part].notna().any()]
    panels: list[tuple[str, str]] = [("loss", "Loss")]
    if len(parts) > 1:
        panels.append(("parts", "Parts of the loss, training, unweighted"))
    scores = (("accuracy", "Gesture accuracy"), ("pck_30", "PCK@30 mm, root-aligned"))
    panels += [(column, title) for column, title in scores if history[column].notna().any()]
    columns = 1 if len(panels) == 1 else 2
    rows = -(-len(panels) // columns)
    figure = Figure(figsize=(4.6 * columns, 2.9 * rows))
    figure.set_layout_engine("constrained", hspace=0.09)
    falls = _rate_falls(history)
    for number, (column, title) in enumerate(panels, 1):
        axes = figure.add_subplot(rows, columns, number)
        for epoch in falls:
            axes.axvline(epoch, color=GREY, linewidth=0.8, linestyle=":", zorder=1)
        if column == "parts":
            train = history[history["split"] == "train"]
            for part in parts:
                label, colour, line = PARTS[part]
                _plot_epochs(axes, train, part, label, colour, line)
        else:
            for split, (label, colour, line) in SPLITS.items():
                _plot_epochs(axes, history[history["split"] == split], column, label, colour, line)
        if column in dict(scores):
            _share_axis(axes)
        else:
            axes.set_yscale("log")
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if number <= 2:
            axes.legend()
    return figure


@dataclass(frozen=True)
class Choice:
    """A frame to show: what it stands for, its video (position in `keys`) and its row in the predictions."""

    label: str
    video: int
    row: int
    error_mm: float  # the frame's mean root-aligned error over 21 joints
    video_error_mm: float  # the same over the video's readable frames


@dataclass(frozen=True)
class Example:
    """One row of the qualitative figure."""

    title: str
    picture: NDArray[np.uint8] | None  # [S, S, 3] RGB crop; None where the pictures must not be shown
    size: int  # S, px
    uv_crop_px: NDArray[np.floating]  # [21, 2] predicted
    true_uv_crop_px: NDArray[np.floating]  # [21, 2]
    joints_cam_mm: NDArray[np.floating]  # [21, 3] predicted
    true_joints_cam_mm: NDArray[np.floating]  # [21, 3]


def choose_examples(predictions: Predictions) -> tuple[Choice, ...]:
    """A good (10th percentile), the median, a poor (90th percentile) and the worst video by mean root-aligned error.

    Of each video, the readable frame whose error is the video's (lower) median. Nothing is drawn at random: ties go to
    the earlier video and frame. Few videos give fewer examples.
    """
    predicted_mm, true_mm = root_aligned(predictions.joints_cam_mm), root_aligned(predictions.true_joints_cam_mm)
    error_mm = joint_errors(predicted_mm, true_mm).mean(axis=1)
    readable = np.flatnonzero(predictions.frame_valid)
    videos = np.unique(predictions.video_of_frame[readable])
    rows = {int(v): readable[predictions.video_of_frame[readable] == v] for v in videos}
    mean_mm = np.array([error_mm[rows[int(v)]].mean() for v in videos])
    ranked = videos[np.argsort(mean_mm, kind="stable")]
    choices: dict[int, Choice] = {}
    for label, quantile in EXAMPLES:
        video = int(ranked[round(quantile * (len(ranked) - 1))])
        if video not in choices:
            candidates = rows[video][np.argsort(error_mm[rows[video]], kind="stable")]
            row = int(candidates[(len(candidates) - 1) // 2])
            choices[video] = Choice(label, video, row, float(error_mm[row]), float(error_mm[rows[video]].mean()))
    return tuple(sorted(choices.values(), key=lambda choice: (choice.video_error_mm, choice.video)))


@_styled
def qualitative_figure(examples: Sequence[Example]) -> Figure:
    """Fig. 5: the predicted and the true 2D skeleton by finger, and both 3D skeletons, root-aligned, from two sides."""
    height = 2.75 * len(examples) + 0.45  # inches; the heads take the upper 0.45
    figure = Figure(figsize=(10.6, height))
    figure.set_layout_engine("none")
    grid = figure.add_gridspec(
        len(examples), 4, left=0.01, right=0.99, top=1 - 0.74 / height, bottom=0.01, wspace=0.03, hspace=0.15
    )
    for row, example in enumerate(examples):
        for column, uv_crop_px in enumerate((example.uv_crop_px, example.true_uv_crop_px)):
            axes = figure.add_subplot(grid[row, column])
            _draw_on_crop(axes, example, uv_crop_px)
            if column == 0:
                axes.set_title(example.title, size=9, pad=5, weight="normal")
        for column, (elevation, azimuth) in ((2, (8, -90)), (3, (8, -8))):
            _draw_in_space(figure.add_subplot(grid[row, column], projection="3d"), example, elevation, azimuth)
    heads = ("predicted in 2D", "true in 2D", "3D from the camera", "3D from the side")
    for column, head in enumerate(heads):
        place = grid[0, column].get_position(figure)
        figure.text(place.x0 + place.width / 2, 1 - 0.08 / height, head, ha="center", va="top", weight="bold", size=10)
    lines = figure.axes[2].get_lines()
    figure.legend([lines[0], lines[len(BONES)]], ["predicted", "true (grid: 50 mm)"], ncols=2, loc="upper center",
                  bbox_to_anchor=(0.745, 1 - 0.26 / height), fontsize=8.5)  # fmt: skip
    return figure


def _draw_on_crop(axes: Axes, example: Example, uv_crop_px: NDArray[np.floating]) -> None:
    size = example.size
    if example.picture is None:
        axes.set_facecolor("#F1F2F4")
    else:
        axes.imshow(example.picture, interpolation="bicubic")
    axes.set(xlim=(-0.5, size - 0.5), ylim=(size - 0.5, -0.5), xticks=[], yticks=[], aspect="equal")
    axes.spines[:].set_visible(False)
    axes.grid(False)
    for parent, joint in BONES:
        bone = uv_crop_px[[parent, joint]]
        axes.plot(bone[:, 0], bone[:, 1], color="black", linewidth=3.6, alpha=0.55, solid_capstyle="round")
    for parent, joint in BONES:
        bone = uv_crop_px[[parent, joint]]
        colour = FINGER_COLOURS[FINGERS[(joint - 1) // 4]]
        axes.plot(bone[:, 0], bone[:, 1], color=colour, linewidth=2.2, solid_capstyle="round")
        axes.plot(*bone[1], "o", color=colour, markersize=3.6, markeredgecolor="white", markeredgewidth=0.5)
    axes.plot(*uv_crop_px[WRIST], "o", color="white", markersize=4.6, markeredgecolor="black", markeredgewidth=0.8)


def _draw_in_space(axes: Any, example: Example, elevation: float, azimuth: float) -> None:
    """Axes of the plot: x to the right, z away from the camera, −y up."""
    both = []
    for joints_cam_mm, colour, line in (
        (example.joints_cam_mm, BLUE, "-"),
        (example.true_joints_cam_mm, VERMILION, (0, (3, 1))),
    ):
        x, y, z = (joints_cam_mm - joints_cam_mm[WRIST]).T
        both.append(np.stack([x, z, -y]))
        for parent, joint in BONES:
            pair = [parent, joint]
            axes.plot(x[pair], z[pair], -y[pair], color=colour, linewidth=1.7, linestyle=line, solid_capstyle="round")
        axes.scatter(x, z, -y, s=5, color=colour, depthshade=False)
    points = np.concatenate(both, axis=1)
    centre = (points.min(axis=1) + points.max(axis=1)) / 2
    half_mm = max(float(np.ptp(points, axis=1).max()) / 2 * 1.06, 1.0)
    axes.set(
        xlim=(centre[0] - half_mm, centre[0] + half_mm),
        ylim=(centre[1] - half_mm, centre[1] + half_mm),
        zlim=(centre[2] - half_mm, centre[2] + half_mm),
    )
    axes.set_box_aspect((1, 1, 1), zoom=1.3)
    axes.view_init(elev=elevation, azim=azimuth)
    for axis in (axes.xaxis, axes.yaxis, axes.zaxis):
        axis.set_major_locator(MultipleLocator(50.0))
        axis.set_pane_color("#F6F7F8")
        axis.set_tick_params(color="none")
        axis.set_ticklabels([])
        axis.line.set_visible(False)


def _row(figure: Figure, columns: int) -> list[Axes]:
    return [figure.add_subplot(1, columns, number) for number in range(1, columns + 1)]


def _share_axis(axes: Axes) -> None:
    axes.set_ylim(0.0, 1.0)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, 0))


def _plot_epochs(axes: Axes, rows: pd.DataFrame, column: str, label: str, colour: str, line: str) -> None:
    rows = rows[rows[column].notna()].sort_values("epoch")
    if len(rows):
        marker = "o" if len(rows) <= 30 else ""
        axes.plot(rows["epoch"], rows[column], line, color=colour, label=label, marker=marker, markersize=3)


def _rate_falls(history: pd.DataFrame) -> list[int]:
    """The epochs whose learning rate is lower than the epoch's before."""
    rate = history[history["split"] == "train"].dropna(subset=["learning_rate"]).sort_values("epoch")
    lower = np.diff(rate["learning_rate"].to_numpy(float)) < 0
    return [int(epoch) for epoch in rate["epoch"].to_numpy()[1:][lower]]
