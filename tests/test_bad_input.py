"""What goes wrong from outside: no space left, foreign files, and videos that hardly are any."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import fpha_tree as tree
import gesturepose
from gesturepose.backbone import initial_trunk
from gesturepose.checkpoint import load_state, load_weights, save_weights
from gesturepose.data.fpha import open_root
from gesturepose.data.prepare import prepare
from gesturepose.data.prepared import PreparedData
from gesturepose.errors import InputError
from gesturepose.evaluation import Evaluation, evaluate_predictions
from gesturepose.experiment import Epoch, Training, fit, load_network, network_header, predict_videos
from gesturepose.models.gesture import MultiOrderRelation
from gesturepose.params import STREAMS, Params, PrepareSettings, apply_profile, load_params
from gesturepose.structures import Predictions
from gesturepose.tracking import open_store
from gesturepose.trainings import collaborative_training, finetuning

PROJECT = Path(__file__).parent.parent
TESTS = Path(__file__).parent
ELSEWHERE = ("DVC_ROOT", "MLFLOW_TRACKING_URI")  # would name another project's store
CLIP = PrepareSettings(image_size=32, crop="clip", box_margin=1.3, max_unreadable=0.0)


# No space left: above a file size that the process sets itself, the kernel refuses to write, as on a full disk.

FULL_DISK = """\
import json, os, resource, signal, sys
from pathlib import Path
import torch
import fpha_tree as tree
from test_evaluation import SETTINGS, perfect, prepared
from gesturepose.checkpoint import load_state, load_weights, save_state, save_weights
from gesturepose.data.fpha import open_root
from gesturepose.data.prepare import prepare
from gesturepose.data.verify import verify_root
from gesturepose.errors import InputError
from gesturepose.evaluation import evaluate_predictions, load_predictions, save_predictions, write_evaluation
from gesturepose.params import PrepareSettings, apply_profile
from gesturepose.synthetic.writer import render_root, write_root
from gesturepose.tracking import open_store

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing then fails instead of ending the process


def tree_of(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes().hex() for p in sorted(folder.rglob("*")) if p.is_file()}


def attempt(name, size, act, folder):
    before = tree_of(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        act()
        said = "nothing was refused"
    except InputError as error:
        said = f"InputError: {error}"
    except Exception as error:
        said = repr(error)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    after = tree_of(folder)
    changed = sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))
    results[name] = {"said": said, "changed": changed}


def place(name):
    folder = work / name
    folder.mkdir()
    return folder


results, work = {}, Path(sys.argv[1])

folder = place("writer")
arguments = dict(size="test", image_width=160, workers=1, annotations_only=True)
write_root(folder / "root", seed=1, **arguments)
attempt("writer", 3000, lambda: write_root(folder / "root", seed=0, **arguments), folder)
write_root(folder / "root", seed=0, **arguments)  # room was made
results["writer afterwards"] = sorted(path.name for path in folder.iterdir())

annotations, folder = folder / "root", place("renderer")
render = lambda: render_root(annotations, folder / "root", image_width=480, seed=0, workers=1, limit=1)
longest = max(path.stat().st_size for path in annotations.rglob("*.txt"))
attempt("renderer", longest + 1000, render, folder)

folder = place("prepare")
root = open_root(tree.write_root(work / "recordings", tree.videos(subjects=2)), validation=0.3)
settings = PrepareSettings(image_size=32, crop="clip", box_margin=1.3, max_unreadable=0.0)
prepare(root, folder / "data", settings, workers=2)
larger = settings.model_copy(update={"image_size": 64})
attempt("prepare", 150_000, lambda: prepare(root, folder / "data", larger, workers=2), folder)

folder = place("sheet")
attempt("sheet", 2000, lambda: verify_root(root.path, sheet=folder / "sheet.png", progress=False), folder)

data = prepared(work / "evaluated")
predictions, folder = perfect(data), place("evaluation")
evaluation = evaluate_predictions(predictions, data, SETTINGS)
write_evaluation(evaluation, folder / "evaluate")
save_predictions(predictions, folder / "test.npz")
attempt("evaluation", 2000, lambda: write_evaluation(evaluation, folder / "evaluate"), folder)
attempt("predictions", 2000, lambda: save_predictions(predictions, folder / "test.npz"), folder)

folder = place("checkpoint")
save_state(folder / "state.pt", {"epoch": torch.ones(3)})
save_weights(folder / "weights.safetensors", {"a": torch.ones(3)}, {})
attempt("state", 4000, lambda: save_state(folder / "state.pt", {"epoch": torch.ones(3000)}), folder)
weights = lambda: save_weights(folder / "weights.safetensors", {"a": torch.ones(3000)}, {})
attempt("weights", 4000, weights, folder)
assert len(load_state(folder / "state.pt")["epoch"]) == len(load_weights(folder / "weights.safetensors")[0]["a"]) == 3

folder = place("params")
(folder / "params.yaml").write_bytes(Path(sys.argv[2]).read_bytes())
attempt("params", 1000, lambda: apply_profile("paper", folder / "params.yaml"), folder)

folder = place("store")
(folder / ".dvc").mkdir()
os.chdir(folder)
attempt("store", 200_000, open_store, folder)  # in the middle of its creation

print(json.dumps(results | {"work": str(work)}))
"""


@pytest.fixture(scope="module")
def full_disk(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What each writer of files said, and which files it changed, when there was no room."""
    path = os.pathsep.join([str(TESTS), str(Path(gesturepose.__file__).parents[1])])
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path_factory.mktemp("full")), str(PROJECT / "params.yaml")],
        env={k: v for k, v in os.environ.items() if k not in ELSEWHERE} | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    results: dict[str, Any] = json.loads(done.stdout)
    return results


@pytest.mark.parametrize(
    ("name", "place", "words"),
    [
        ("prepare", "prepare", "no space left: the prepared data takes"),
        ("sheet", "sheet.png", "the contact sheet cannot be written: File too large"),
        ("evaluation", "evaluation/evaluate", "cannot be written: File too large"),
        ("predictions", "evaluation/test.npz", "cannot be written: File too large"),
        ("state", "checkpoint/state.pt", "cannot be written: File too large"),
        ("weights", "checkpoint/weights.safetensors", "cannot be written: File too large"),
        ("params", "params/params.yaml", "cannot be written: File too large"),
    ],
)
def test_no_space_left_is_said_and_changes_nothing(
    full_disk: dict[str, Any], name: str, place: str, words: str
) -> None:
    assert full_disk[name]["said"].startswith("InputError: ")
    assert f"{place}: {words}" in full_disk[name]["said"]
    assert full_disk[name]["changed"] == []


@pytest.mark.parametrize("name", ["writer", "renderer"])
def test_no_space_left_for_a_root_keeps_what_is_done_beside_its_place(full_disk: dict[str, Any], name: str) -> None:
    said, changed = full_disk[name]["said"], full_disk[name]["changed"]
    assert said.startswith("InputError: ") and "cannot be written: File too large" in said
    assert "Make room" in said and f"{name}/.root.unfinished for the next run" in said
    assert changed and all(path.startswith(".root.unfinished/") for path in changed)
    # A folder of frames is there when all of them are.
    assert not any("/color/" in path for path in changed)
    assert full_disk["writer afterwards"] == ["root"]


def test_a_tracking_store_whose_creation_had_no_space_is_created_once_there_is(
    full_disk: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert full_disk["store"]["said"].startswith("InputError: the MLflow tracking store sqlite:////")
    assert "the space on the disk" in full_disk["store"]["said"]
    for name in ELSEWHERE:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(Path(full_disk["work"]) / "store")
    store = open_store()
    assert store.search("") == []


# Videos that hardly are any: all shorter than a clip, some of one frame, some with the hand out of the picture.

OUTSIDE = ("Subject_1/wave/1", "Subject_2/wave/3")  # a training and a test video
BEHIND = "Subject_1/open_box/2"


@pytest.fixture(scope="module")
def scarce(tmp_path_factory: pytest.TempPathFactory) -> PreparedData:
    listed = [replace(video, frames=1 + (3 * n + 1) % 7) for n, video in enumerate(tree.videos(subjects=2))]
    root = tree.write_root(tmp_path_factory.mktemp("scarce") / "root", listed)
    for video in listed:
        hand_mm = tree.hand_mm(video.frames)
        if video.key in OUTSIDE:
            hand_mm += (3000.0, 0.0, 0.0)
        elif video.key == BEHIND:
            hand_mm -= (0.0, 0.0, 900.0)
        else:
            continue
        tree.skeleton_path(root, video.key).write_text(tree.skeleton_text(hand_mm))
    prepare(open_root(root, validation=0.0), root.parent / "prepared", CLIP, workers=1)
    return PreparedData.open(root.parent / "prepared")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Params:
    path = tmp_path_factory.mktemp("settings") / "params.yaml"
    path.write_text((PROJECT / "params.yaml").read_text())
    apply_profile("test", path)
    params = load_params(path)
    return params.model_copy(update={"train": params.train.model_copy(update={"epochs": 1, "select": "last"})})


Outcome = tuple[list[Epoch], Training, Predictions, Evaluation]


@pytest.fixture(scope="module")
def outcome(scarce: PreparedData, settings: Params, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Fine-tuning, training, prediction and evaluation on them."""
    trunk = initial_trunk(settings.network, seed=0)
    epochs = list(fit(finetuning(settings, scarce, trunk)))
    training = collaborative_training(settings, scarce, trunk)
    epochs += fit(training)
    path = tmp_path_factory.mktemp("weights") / "train.safetensors"
    save_weights(path, training.weights(), network_header(settings.network, scarce))
    predictions = predict_videos(
        load_network(path, scarce),
        scarce,
        scarce.split("test"),
        settings.runtime,
        segments=settings.train.segments,
        clips_per_batch=3,
    )
    return epochs, training, predictions, evaluate_predictions(predictions, scarce, settings.evaluate)


def test_videos_shorter_than_a_clip_train_and_are_predicted_whole(
    scarce: PreparedData, settings: Params, outcome: Outcome
) -> None:
    lengths = [video.frames for video in scarce.videos]
    assert max(lengths) < settings.train.segments and min(lengths) == 1
    epochs, training, predictions, evaluation = outcome
    assert all(np.isfinite(value) for epoch in epochs for value in epoch.metrics.values())
    assert all(torch.isfinite(tensor).all() for tensor in training.weights().values())
    tests = scarce.split("test")
    assert {video.frames for video in tests} >= {1, 5}
    assert predictions.frame_valid.all()
    seen = list(zip(predictions.keys[predictions.video_of_frame], predictions.frame, strict=True))
    assert seen == [(video.key, frame) for video in tests for frame in range(video.frames)]
    assert np.isfinite(predictions.logits).all() and np.isfinite(predictions.joints_cam_mm).all()
    assert evaluation.metrics["data"]["frames"] == len(seen) and evaluation.metrics["data"]["videos"] == len(tests)


def test_all_joints_outside_the_picture_teach_no_heatmap_and_count_in_the_result(
    scarce: PreparedData, settings: Params, outcome: Outcome
) -> None:
    report = json.loads((scarce.folder / "report.json").read_text())["splits"]
    frames = {video.key: video.frames for video in scarce.videos}
    counted = "frames_with_all_joints_outside_the_image"
    assert (report["train"][counted], report["test"][counted]) == (
        frames[OUTSIDE[0]] + frames[BEHIND],
        frames[OUTSIDE[1]],
    )
    assert report["train"]["joints_behind_the_camera"] == 21 * frames[BEHIND]
    # A training on the videos without a hand alone has nothing to learn a heatmap from.
    only = tuple(video for video in scarce.split("train") if video.key in (*OUTSIDE, BEHIND))
    assert len(only) == 2
    training = finetuning(settings, scarce, initial_trunk(settings.network, seed=0))
    training.train_videos = only
    (epoch,) = fit(training)
    assert epoch.metrics["train/loss_heatmap"] == 0.0
    # The annotated hand is where it is, also where nobody could see it.
    _, _, predictions, evaluation = outcome
    assert evaluation.metrics["data"]["joints"] == 21 * len(predictions.frame)
    rows = evaluation.per_video.set_index("key")
    assert rows["mean_error_mm"].notna().all()


def test_best_needs_a_validation_video(scarce: PreparedData, settings: Params) -> None:
    best = settings.model_copy(update={"train": settings.train.model_copy(update={"select": "best"})})
    message = r"select is best, but the prepared data has no validation video\n.*Set train.select to last"
    with pytest.raises(InputError, match=message):
        collaborative_training(best, scarce, initial_trunk(settings.network, seed=0))


def test_a_training_that_was_over_says_its_epochs_again_and_trains_nothing(
    scarce: PreparedData, settings: Params, tmp_path: Path
) -> None:
    def new() -> Training:
        return finetuning(settings, scarce, initial_trunk(settings.network, seed=0))

    checkpoint = tmp_path / "state.pt"
    first = list(fit(new(), checkpoint))  # killed after its last epoch, before the stage wrote its results
    before = checkpoint.stat().st_mtime_ns
    again = new()
    assert [(epoch.number, epoch.metrics) for epoch in fit(again, checkpoint)] == [(e.number, e.metrics) for e in first]
    assert again.epochs_done == settings.finetune.epochs and checkpoint.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("token", "said"),
    [("NaN", "column 64 is 'NaN'"), ("-nan", "column 64 is '-nan'"), ("joint", "column 64 is 'joint'")],
)
def test_prepare_refuses_a_row_of_64_columns_with_no_number_in_one(tmp_path: Path, token: str, said: str) -> None:
    root = tree.write_root(tmp_path / "root", tree.videos(subjects=1))
    path = tree.skeleton_path(root, "Subject_1/wave/2")
    rows = path.read_text().splitlines()
    rows[3] = f"{rows[3].rsplit(' ', 1)[0]} {token}"
    assert len(rows[3].split()) == 64
    path.write_text("\n".join(rows) + "\n")
    with pytest.raises(InputError) as caught:
        prepare(open_root(root, validation=0.0), tmp_path / "prepared", CLIP, workers=1)
    assert str(caught.value).startswith(f"{path}:4: {said}; expected a finite number")
    assert [entry.name for entry in tmp_path.iterdir()] == ["root"]


# Foreign files of weights


def whole_model(path: Path) -> None:
    torch.save(torch.nn.Linear(2, 3), path)


def single_tensor(path: Path) -> None:
    torch.save(torch.zeros(3), path)


def nested_state(path: Path) -> None:
    torch.save({"state_dict": {"conv1.weight": torch.zeros(3)}}, path)


def text(path: Path) -> None:
    path.write_text("version https://example.org/spec/v1\nsize 46830571\n")


def empty(path: Path) -> None:
    path.touch()


FOREIGN = (whole_model, single_tensor, nested_state, text, empty)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("write", FOREIGN)
def test_pretrained_weights_that_are_no_state_dict_are_refused(
    settings: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], None], suffix: str
) -> None:
    monkeypatch.chdir(tmp_path)
    path = Path("data/weights") / f"mine{suffix}"
    path.parent.mkdir(parents=True)
    write(path)
    network = settings.network.model_copy(update={"weights": path.name})
    with pytest.raises(InputError) as caught:
        initial_trunk(network, seed=0)
    assert str(caught.value).startswith(f"{path}: not a state dict of tensors")
    assert "weights_only" not in str(caught.value)  # how to run a stranger's code is no advice


@pytest.mark.parametrize("write", FOREIGN)
def test_trained_weights_of_another_format_are_refused(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / "train.safetensors"
    write(path)
    with pytest.raises(InputError, match=r"train\.safetensors: not weights of this project"):
        load_weights(path)


@pytest.mark.parametrize("write", [whole_model, text, empty])
def test_a_foreign_checkpoint_is_refused_with_what_to_do(tmp_path: Path, write: Callable[[Path], None]) -> None:
    path = tmp_path / "state.pt"
    write(path)
    with pytest.raises(InputError, match=r"state\.pt: a broken checkpoint[\s\S]*Delete it to start the stage anew"):
        load_state(path)


def altered_network(header: dict[str, Any]) -> list[dict[str, Any]]:
    """Headers whose network lacks a key, has one too many, has a wrong value, or is not there."""
    network = header["network"]
    fewer = {key: value for key, value in network.items() if key != "channels"}
    changed = (fewer, network | {"attention": True}, network | {"channels": "two"}, None)
    without = {key: value for key, value in header.items() if key != "network"}
    return [*(header | {"network": wrong} for wrong in changed), without]


@pytest.mark.parametrize("case", range(5))
def test_a_header_that_describes_another_network_is_refused(
    settings: Params, scarce: PreparedData, tmp_path: Path, case: int
) -> None:
    path = tmp_path / "train.safetensors"
    header = altered_network(network_header(settings.network, scarce))[case]
    save_weights(path, {"a": torch.zeros(1)}, header)
    message = r"train\.safetensors: of another version of the network: \w[\s\S]*Run the train stage again"
    with pytest.raises(InputError, match=message):
        load_network(path, scarce)


@pytest.mark.parametrize("header", ["[1, 2]", "null", "{"])
def test_a_header_that_is_none_is_refused(scarce: PreparedData, tmp_path: Path, header: str) -> None:
    path = tmp_path / "train.safetensors"
    save_file({"a": torch.zeros(1)}, path, metadata={"gesturepose": header})
    with pytest.raises(InputError, match=r"train\.safetensors: not weights of this project"):
        load_network(path, scarce)


# bfloat16


class Witnessed(MultiOrderRelation):
    """Keeps the weights that its own forward pass computes."""

    def _stream_weights(self, zero_order: torch.Tensor, frame_valid: torch.Tensor) -> torch.Tensor:
        self.seen = super()._stream_weights(zero_order, frame_valid)
        return self.seen


@pytest.mark.parametrize("multi_scale", [True, False])
def test_bfloat16_features_have_the_slow_fast_weights_of_float32(multi_scale: bool) -> None:
    torch.manual_seed(5)
    module = Witnessed(
        parts=((2,), (3, 4), (0, 1, 5, 6)),
        channels=3,
        gestures=11,
        streams=STREAMS,
        multi_scale=multi_scale,
        grid=2,
        tcn_layers=2,
        tcn_width=5,
        detach_slow_fast=True,
    )
    # Much alike from frame to frame, as features of a video are: differences are where bfloat16 loses all its digits.
    still = torch.randn(2, 1, 7, 3, 4, 6)
    features = (still + 0.05 * torch.randn(2, 5, 7, 3, 4, 6)).bfloat16()
    valid = torch.ones(2, 5, dtype=torch.bool)
    valid[1, 3] = False
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps, logits = module(features, valid)
    mixed = module.seen
    plain_maps, plain_logits = module(features.float(), valid)
    assert mixed.dtype == torch.float32
    torch.testing.assert_close(mixed, module.seen, rtol=0, atol=1e-6)
    torch.testing.assert_close(logits, plain_logits, rtol=0, atol=1e-5)
    torch.testing.assert_close(maps.float(), plain_maps, rtol=0.02, atol=0.05)
    assert (mixed[:, :, 1:] < 0.9).any()  # the weights do tell the joints apart
