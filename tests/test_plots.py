"""The figures: what they show, equal bytes for equal input, and examples chosen by their errors alone."""

from itertools import pairwise

import matplotlib
import numpy as np
import pandas as pd
import pytest

from gesturepose import plots
from gesturepose.skeleton import JOINTS, WRIST
from gesturepose.structures import Predictions

NAMES = ("fist_form", "fist_release", "palm_form", "palm_release", "pinch_form")


def predictions(error_mm, frames=3, valid=None):
    """One video for each entry of `error_mm`: all joints but the wrist are off by that much, in every frame."""
    videos = len(error_mm)
    rng = np.random.default_rng(0)
    true = rng.normal(scale=40.0, size=(videos * frames, JOINTS, 3)).astype(np.float32)
    true[..., 2] += 400.0
    video_of_frame = np.repeat(np.arange(videos), frames)
    offset = np.zeros_like(true)
    offset[:, WRIST + 1 :, 0] = np.asarray(error_mm)[video_of_frame, None]
    return Predictions(
        video_of_frame=video_of_frame,
        frame=np.tile(np.arange(frames), videos),
        frame_valid=np.ones(videos * frames, bool) if valid is None else valid,
        uv_px=true[..., :2],
        joints_cam_mm=true + offset,
        true_uv_px=true[..., :2],
        true_joints_cam_mm=true,
        keys=np.array([f"Subject_1/fist_form/{video + 1}" for video in range(videos)]),
        subject=np.ones(videos, np.int64),
        gesture=np.arange(videos) % len(NAMES),
        logits=np.zeros((videos, len(NAMES)), np.float32),
    )


def curve():
    rows = [
        (alignment, joints, source, threshold, 1 - np.exp(-threshold / scale))
        for alignment, last, sources in (
            ("root_aligned", 50, ("network", "mean_pose", "nearest_frame")),
            ("camera", 80, ("network",)),
        )
        for joints in ("joints21", "joints20")
        for source, scale in zip(sources, (9.0, 30.0, 20.0), strict=False)
        for threshold in np.arange(0.0, last + 1, 2.5)
    ]
    return pd.DataFrame(rows, columns=["alignment", "joints", "source", "threshold_mm", "pck"])


def confusion():
    pairs = [(NAMES[0], NAMES[0]), (NAMES[0], NAMES[1]), (NAMES[2], NAMES[2]), (NAMES[3], NAMES[3])]
    return pd.DataFrame(pairs, columns=["actual", "predicted"])


def history(scores):
    rows = []
    for epoch, rate in ((1, 0.1), (2, 0.1), (3, 0.01)):
        for split in ("train", "validation"):
            row = {"epoch": epoch, "split": split, "learning_rate": rate, "loss": 1 / epoch, "loss_heatmap": 1 / epoch}
            if scores:
                row |= {"loss_depth": 2 / epoch, "loss_gesture": 3 / epoch}
            if scores and split == "validation":
                row |= {"accuracy": epoch / 4, "pck_30": epoch / 5}
            rows.append(row)
    return pd.DataFrame(rows)


def example(picture):
    joints = np.random.default_rng(1).normal(size=(JOINTS, 3)) * 50
    shifted = joints + 7.0
    return plots.Example("median <1>", picture, 32, joints[:, :2] / 5 + 16, shifted[:, :2] / 5 + 16, joints, shifted)


PICTURE = np.arange(32 * 32 * 3, dtype=np.uint8).reshape(32, 32, 3)
DRAWINGS = {
    "pck": lambda: plots.pck_figure(curve()),
    "confusion": lambda: plots.confusion_figure(confusion(), NAMES),
    "per_class": lambda: plots.per_class_figure(confusion(), NAMES),
    "training": lambda: plots.training_figure(history(scores=True)),
    "qualitative": lambda: plots.qualitative_figure([example(PICTURE), example(None)]),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_equal_figures_are_equal_bytes_without_date_or_version(name):
    content = plots.figure_png(DRAWINGS[name]())
    assert content == plots.figure_png(DRAWINGS[name]())
    assert content.startswith(b"\x89PNG") and b"tEXt" not in content and b"tIME" not in content


def test_a_users_matplotlib_settings_change_nothing():
    plain = plots.figure_png(DRAWINGS["pck"]())
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "savefig.dpi": 20}):
        assert plots.figure_png(DRAWINGS["pck"]()) == plain


def test_the_curves_are_the_tables():
    figure = plots.pck_figure(curve(), "joints20")
    root_aligned, camera = figure.axes
    table = curve().query("alignment == 'root_aligned' and joints == 'joints20' and source == 'mean_pose'")
    drawn = {line.get_label(): line for line in root_aligned.get_lines()}
    assert np.array_equal(drawn["mean training pose"].get_xydata(), table[["threshold_mm", "pck"]].to_numpy())
    assert camera.get_xlim() == (0, 80) and root_aligned.get_xlim() == (0, 50)
    assert "20 joints" in root_aligned.get_ylabel()


def test_confusion_has_true_rows_and_every_class():
    counts = plots.confusion_counts(confusion(), NAMES)
    assert counts.shape == (5, 5) and counts.sum() == 4
    assert counts[0, 0] == counts[0, 1] == counts[2, 2] == counts[3, 3] == 1 and counts[1, 0] == 0
    axes = plots.confusion_figure(confusion(), NAMES).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == [name.replace("_", " ") for name in NAMES]


@pytest.mark.parametrize("classes", [4, 45])
def test_confusion_labels_do_not_overlap(classes):
    names = [f"gesture_{number}" for number in range(classes)]
    figure = plots.confusion_figure(pd.DataFrame({"actual": names, "predicted": names[::-1]}), names)
    plots.figure_png(figure)  # lays it out
    boxes = [label.get_window_extent() for label in figure.axes[0].get_yticklabels()]
    assert all(upper.y0 >= lower.y1 for upper, lower in pairwise(boxes))


def test_accuracy_of_each_class_leaves_out_absent_ones_and_puts_the_best_first():
    axes = plots.per_class_figure(confusion(), NAMES).axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["palm form", "palm release", "fist form"]
    assert [bar.get_width() for bar in axes.patches] == [1.0, 1.0, 0.5]
    assert [text.get_text() for text in axes.texts] == ["1 of 1", "1 of 1", "1 of 2"]


def test_training_shows_what_was_measured_and_where_the_rate_falls():
    titles = [axes.get_title("left") for axes in plots.training_figure(history(scores=True)).axes]
    assert titles == ["Loss", "Parts of the loss, training, unweighted", "Gesture accuracy", "PCK@30 mm, root-aligned"]
    (alone,) = plots.training_figure(history(scores=False)).axes
    falls = [line.get_xdata()[0] for line in alone.get_lines() if line.get_linestyle() == ":"]
    assert falls == [3]


def test_examples_are_ranked_by_error_with_the_worst_among_them():
    error_mm = [5.0, 90.0, 20.0, 1.0, 40.0, 30.0, 10.0, 60.0, 3.0, 2.0, 7.0]
    choices = plots.choose_examples(predictions(error_mm))
    assert [choice.label.split()[0] for choice in choices] == ["good", "median", "poor", "worst"]
    assert [error_mm[choice.video] for choice in choices] == [2.0, 10.0, 60.0, 90.0]
    assert choices[-1].video_error_mm == pytest.approx(90.0 * (JOINTS - 1) / JOINTS, rel=1e-5)
    assert choices == plots.choose_examples(predictions(error_mm))


def test_examples_of_few_videos_are_distinct_and_readable():
    valid = np.ones(6, bool)
    valid[:5] = False  # of two videos, the last frame of the second alone can be read
    (only,) = plots.choose_examples(predictions([4.0, 8.0], valid=valid))
    assert (only.video, only.row) == (1, 5)


def test_without_a_picture_none_is_drawn():
    shown, hidden = (plots.qualitative_figure([example(picture)]) for picture in (PICTURE, None))
    assert [len(axes.images) for axes in shown.axes[:2]] == [1, 1]
    assert [len(axes.images) for axes in hidden.axes] == [0, 0, 0, 0]
