"""Weak supervision: withheld labels change nothing, methods share clips and steps, cells resume, curves by hand."""

from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from gesturepose.backbone import initial_trunk
from gesturepose.cells import Cell, all_cells
from gesturepose.data.labels import LabelSubset
from gesturepose.errors import InputError
from gesturepose.experiment import fit, predict_videos
from gesturepose.label_curves import at, curve_table, gains
from gesturepose.matrix_files import weights_of
from gesturepose.params import PARAMS_FILE, apply_profile, load_params
from gesturepose.significance import holm, mcnemar
from gesturepose.steps import step_finetuning
from gesturepose.teacher import MeanTeacher
from gesturepose.video_scores import mean_answers, video_scores
from gesturepose.weak import weak_training

RATIO = 0.4
CELLS = [Cell("pose", "baseline", RATIO, 0), Cell("pose", "weak", RATIO, 0), Cell("pose", "teacher", RATIO, 0),
         Cell("gesture", "baseline", RATIO, 0), Cell("gesture", "weak", RATIO, 0)]  # fmt: skip


def weak_settings(params, **changes):
    return params.model_copy(update={"weak": params.weak.model_copy(update=changes)})


def trained(params, data, cell, labels):
    """The cell's weights after all of its stages."""
    trunk = initial_trunk(params.network, seed=cell.seed)
    if cell.direction == "pose":
        list(fit(step_finetuning(params, data, trunk, pose_labelled=frozenset(labels.pose), seed=cell.seed)))
    training = weak_training(params, data, trunk, cell, labels)
    list(fit(training))
    return training.weights()


def corrupted(data, cell, labels, how):
    """`data` with every label spoiled that the cell may not use."""
    rng = np.random.default_rng(5)
    shown = {"pose": set(labels.pose), "gesture": set(labels.gesture)}
    joints_cam_mm, joints_uv_px = data.joints_cam_mm.copy(), data.joints_uv_px.copy()
    videos = []
    for video in data.videos:
        training = video.split == "train"
        few = training and video.key in shown[cell.direction]
        other = training and cell.method != "baseline"
        pose, gesture = (few, other) if cell.direction == "pose" else (other, few)
        frames = slice(video.start, video.start + video.frames)
        if not pose:
            for array in (joints_cam_mm, joints_uv_px):
                array[frames] = np.nan if how == "nan" else rng.normal(size=array[frames].shape) * 300
        wrong = (video.gesture + int(rng.integers(1, len(data.gestures)))) % len(data.gestures)
        videos.append(video if gesture else replace(video, gesture=wrong))
    index = data.index.model_copy(update={"videos": tuple(videos)})
    return replace(data, index=index, joints_cam_mm=joints_cam_mm, joints_uv_px=joints_uv_px)


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_withheld_labels_change_no_weight(params, prepared, cell):
    params = weak_settings(params, teacher_confidence=0.0)  # the teacher labels every joint
    labels = LabelSubset.draw(prepared, RATIO, 0)
    expected = trained(params, prepared, cell, labels)
    for how in ("nan", "random"):
        spoiled = corrupted(prepared, cell, labels, how)
        assert not np.array_equal(spoiled.joints_cam_mm, prepared.joints_cam_mm, equal_nan=True)
        assert [video.gesture for video in spoiled.videos] != [video.gesture for video in prepared.videos]
        found = trained(params, spoiled, cell, labels)
        assert all(torch.equal(found[name], tensor) for name, tensor in expected.items()), how


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
def test_each_given_kind_of_label_changes_the_weights(params, prepared, cell):
    """The test above would also pass if no label were read at all."""
    labels = LabelSubset.draw(prepared, RATIO, 0)
    fewer = labels.model_copy(update={cell.direction: getattr(labels, cell.direction)[1:]})
    found = trained(params, corrupted(prepared, cell, fewer, "random"), cell, labels)
    expected = trained(params, prepared, cell, labels)
    assert any(not torch.equal(found[name], tensor) for name, tensor in expected.items())


class Read:
    """Settings that note which of them are asked for."""

    def __init__(self, settings):
        self._settings, self.names = settings, set()

    def __getattr__(self, name):
        self.names.add(f"weak.{name}")
        return getattr(self._settings, name)


@pytest.mark.parametrize("stage", [*(f"{cell.direction}_{cell.method}" for cell in CELLS), "finetune", "finetune_all"])
def test_a_cell_depends_on_the_settings_that_it_reads(params, prepared, stage):
    """Otherwise DVC would keep a cell whose setting has changed."""
    read = Read(params.weak)
    params = params.model_copy(update={"weak": read})
    labels = LabelSubset.draw(prepared, RATIO, 0)
    trunk = initial_trunk(params.network, seed=0)
    if stage.startswith("finetune"):
        training = step_finetuning(params, prepared, trunk, pose_labelled=frozenset(labels.pose), seed=0)
    else:
        training = weak_training(params, prepared, trunk, Cell(*stage.split("_"), RATIO, 0), labels)
    next(fit(training))
    declared = yaml.safe_load((Path(__file__).parents[1] / "pipelines/weak/dvc.yaml").read_text())["stages"][stage][
        "params"
    ]
    assert read.names == {name for name in declared if name.startswith("weak.")}


@pytest.mark.parametrize("direction", ["pose", "gesture"])
def test_both_methods_see_the_same_labelled_clips_for_as_many_steps(params, prepared, direction):
    params = weak_settings(params, finetune_steps=4, train_steps=6, log_every=2, labelled_clips=3, unlabelled_clips=2)
    labels = LabelSubset.draw(prepared, RATIO, 0)
    few = set(labels.pose if direction == "pose" else labels.gesture)
    base, weak = (
        weak_training(
            params, prepared, initial_trunk(params.network, seed=0), Cell(direction, method, RATIO, 0), labels
        )
        for method in ("baseline", "weak")
    )
    first, second = base.network.state_dict(), weak.network.state_dict()
    assert all(torch.equal(first[name], tensor) for name, tensor in second.items()), "first weights, of equal trunks"
    # The baseline of the gesture direction has no poses to fine-tune on and gets those steps added.
    assert weak.settings.epochs == 3 and base.settings.epochs == (3 if direction == "pose" else 5)
    assert weak.settings.learning_rate == base.settings.learning_rate
    assert weak.settings.steps_at == base.settings.steps_at and weak.settings.schedule == "step"
    unlabelled = 0
    for epoch in (1, 2, 3):
        for one, both in zip(base.batches(epoch), weak.batches(epoch), strict=True):
            assert torch.equal(one.video_index, both.video_index[:3])
            assert torch.equal(one.frame_index, both.frame_index[:3])
            one, both = base.prepare(one, epoch), weak.prepare(both, epoch)
            assert torch.allclose(one.video, both.video[:3], atol=1e-3)
            assert all(prepared.videos[index].key in few for index in both.video_index[:3].tolist())
            assert all(prepared.videos[index].key not in few for index in both.video_index[3:].tolist())
            unlabelled += len(both.video_index) - 3
            if direction == "pose":
                assert both.gesture_valid.all() and not one.gesture_valid.any()
                assert both.joint_valid[:3].any() and not both.joint_valid[3:].any()
            else:
                assert both.gesture_valid.tolist() == [True] * 3 + [False] * 2
                assert both.joint_valid[3:].any() and not one.joint_valid.any()
    assert unlabelled == 2 * 6


def test_a_video_that_comes_again_comes_out_otherwise(params, prepared):
    """Whatever the length of what is logged as an epoch; the law holds for every pair of steps."""
    labels = LabelSubset.draw(prepared, RATIO, 0)
    shown = {}
    for log_every in (2, 6):
        changed = weak_settings(params, train_steps=6, log_every=log_every, labelled_clips=3)
        training = weak_training(changed, prepared, initial_trunk(params.network, seed=0), CELLS[0], labels)
        for epoch in range(1, training.settings.epochs + 1):
            for batch in training.batches(epoch):
                prepared_batch = training.prepare(batch, epoch)
                shown.setdefault(log_every, []).append((batch.video_index, prepared_batch.video))
    drawn = {}
    for (index, video), (other_index, other) in zip(shown[2], shown[6], strict=True):
        assert torch.equal(index, other_index) and torch.equal(video, other)
        for clip, number in enumerate(index.tolist()):
            drawn.setdefault(number, []).append(video[clip].mean())
    assert all(len({float(mean) for mean in means}) == len(means) for means in drawn.values())
    assert max(map(len, drawn.values())) > 1


def test_with_all_labels_there_is_no_unlabelled_stream(params, prepared):
    labels = LabelSubset.draw(prepared, 1.0, 0)
    training = weak_training(
        params, prepared, initial_trunk(params.network, seed=0), Cell("pose", "weak", 1.0, 0), labels
    )
    assert [stream.clips_per_batch for stream in training.streams] == [params.weak.labelled_clips]


@pytest.mark.parametrize("method", ["weak", "teacher"])
def test_a_resumed_cell_equals_an_uninterrupted_one(params, prepared, tmp_path, method):
    params = weak_settings(params, train_steps=6, log_every=2, teacher_confidence=0.0)
    labels = LabelSubset.draw(prepared, RATIO, 0)

    def new():
        return weak_training(
            params, prepared, initial_trunk(params.network, seed=0), Cell("pose", method, RATIO, 0), labels
        )

    whole = new()
    epochs = list(fit(whole))
    interrupted = fit(new(), tmp_path / "state.pt")
    next(interrupted)
    interrupted.close()
    resumed = new()
    rest = list(fit(resumed, tmp_path / "state.pt"))
    assert [epoch.metrics for epoch in rest] == [epoch.metrics for epoch in epochs] and len(epochs) == 3
    assert all(torch.equal(resumed.weights()[name], tensor) for name, tensor in whole.weights().items())


def test_teacher_is_the_average_of_the_weights(params, prepared):
    trunk = initial_trunk(params.network, seed=0)
    labels = LabelSubset.draw(prepared, RATIO, 0)
    network = weak_training(params, prepared, trunk, CELLS[1], labels).network
    teacher = MeanTeacher.of(network, decay=0.75, confidence=0.0)
    values = [3.0, 5.0, 7.0, 11.0, 2.0]
    expected = None
    for step, value in enumerate(values):
        for tensor in network.state_dict().values():
            tensor.fill_(value)
        teacher.follow(network)
        decay = min(0.75, step / (step + 1))
        expected = value if expected is None else decay * expected + (1 - decay) * value
    # By hand: 3, 4, 5, then 0.75·5 + 0.25·11 = 6.5, then 0.75·6.5 + 0.25·2 = 5.375.
    assert expected == pytest.approx(5.375)
    for name, tensor in teacher.network.state_dict().items():
        if tensor.is_floating_point():
            assert torch.allclose(tensor, torch.full_like(tensor, 5.375)), name
    assert not teacher.network.training and not any(p.requires_grad for p in teacher.network.parameters())


def test_teacher_labels_unlabelled_clips_alone_and_only_where_it_is_sure(params, prepared):
    labels = LabelSubset.draw(prepared, RATIO, 0)
    trunk = initial_trunk(params.network, seed=0)
    for confidence, some in ((0.0, True), (1.0, False)):
        settings = weak_settings(params, teacher_confidence=confidence)
        training = weak_training(settings, prepared, trunk, CELLS[2], labels)
        for parameter in training.network.iterations[-1].pose.to_heatmaps[-1].parameters():
            torch.nn.init.constant_(parameter, 0.05)  # heatmaps above 0, far below 1
        batch = next(iter(training.batches(1)))
        clips = params.weak.labelled_clips
        assert not batch.joint_valid[clips:].any() and batch.depth_rel[clips:].isnan().all()
        taught = training.prepare(batch, 1)
        assert torch.equal(taught.joint_valid[:clips], batch.joint_valid[:clips])
        assert torch.equal(taught.depth_rel[:clips], batch.depth_rel[:clips])
        assert bool(taught.joint_valid[clips:].any()) == some
        assert taught.depth_rel[clips:].isfinite().all() and taught.joints_uv_crop_px[clips:].isfinite().all()


def test_matrix_and_its_files(params, tmp_path):
    settings = params.weak.model_copy(update={"ratios": (0.15, 1.0), "seeds": (3, 4, 7)})
    cells = all_cells(settings)
    assert len(cells) == len(set(cells)) == 2 * 2 * 2 * 3
    assert Cell("pose", "weak", 1.0, 7).name == "pose-weak-1.0-7" and Cell("pose", "weak", 1.0, 7) in cells
    more = all_cells(settings.model_copy(update={"further_pose_methods": ("teacher",)}))
    assert {cell.method for cell in set(more) - set(cells)} == {"teacher"} and len(more) == len(cells) + 6
    for cell in cells:
        (tmp_path / f"{cell.name}.safetensors").touch()
    names = [cell.name for cell in cells]
    assert list(weights_of(tmp_path, names, pipeline="weak")) == names
    (tmp_path / "pose-weak-0.6-3.safetensors").touch()
    with pytest.raises(InputError, match=r"1 files of no cell .*pose-weak-0\.6-3"):
        weights_of(tmp_path, names, pipeline="weak")
    (tmp_path / "pose-weak-0.6-3.safetensors").unlink()
    (tmp_path / "gesture-weak-0.15-4.safetensors").unlink()
    with pytest.raises(InputError, match=r"1 of 24 cells are missing(.|\n)*matrix weak"):
        weights_of(tmp_path, names, pipeline="weak")


def test_label_subsets_as_files(prepared, tmp_path):
    subset = LabelSubset.draw(prepared, RATIO, 1)
    path = tmp_path / f"{RATIO}-1.json"
    path.write_bytes(subset.to_bytes())
    of_cell = {"ratio": RATIO, "seed": 1}
    assert LabelSubset.read(tmp_path, prepared, **of_cell) == subset
    assert subset.pose != subset.gesture, "drawn independently"
    training = {video.key for video in prepared.split("train")}
    assert set(subset.pose) | set(subset.gesture) <= training
    other = replace(prepared, index=prepared.index.model_copy(update={"fingerprint": "another"}))
    with pytest.raises(InputError, match="of other data"):
        LabelSubset.read(tmp_path, other, **of_cell)
    path.rename(tmp_path / "0.7-1.json")
    with pytest.raises(InputError, match=rf"a label subset of ratio {RATIO}, seed 1"):
        LabelSubset.read(tmp_path, prepared, ratio=0.7, seed=1)
    path.write_text("{}")
    with pytest.raises(InputError, match="not a label subset"):
        LabelSubset.read(tmp_path, prepared, **of_cell)
    with pytest.raises(InputError, match=r"no such label subset(.|\n)*labels stage"):
        LabelSubset.read(tmp_path, prepared, ratio=RATIO, seed=2)
    gestures = (*prepared.gestures, "wave")
    with pytest.raises(InputError, match=r"1 of \d+ classes have no training video.*wave"):
        LabelSubset.draw(replace(prepared, index=prepared.index.model_copy(update={"gestures": gestures})), 0.5, 0)


def test_video_scores_add_up_to_the_metrics(params, prepared):
    labels = LabelSubset.draw(prepared, RATIO, 0)
    network = weak_training(params, prepared, initial_trunk(params.network, seed=0), CELLS[1], labels).network
    videos = prepared.split("validation")
    predictions = predict_videos(network, prepared, videos, params.runtime, segments=5, clips_per_batch=3)
    predictions.joints_cam_mm[:] = predictions.true_joints_cam_mm
    predictions.joints_cam_mm[:, 1, 0] += 22.0  # beyond 20 mm, within 25
    predictions.joints_cam_mm[:, 2, 1] -= 27.0
    predictions.frame_valid[0] = False
    predictions.joints_cam_mm[0] = np.nan
    table = video_scores(predictions, prepared, pose=True, gesture=False)
    frames = np.bincount(predictions.video_of_frame, weights=predictions.frame_valid)
    assert table["joints"].tolist() == (21 * frames).astype(int).tolist()
    assert table["hits_20"].tolist() == (19 * frames).astype(int).tolist()
    assert table["hits_25"].tolist() == (20 * frames).astype(int).tolist()
    assert table["hits_30"].tolist() == (21 * frames).astype(int).tolist()
    assert table["error_mm"].to_numpy() == pytest.approx(49.0 * frames, rel=1e-4)
    assert table["correct"].isna().all() and table["video"].tolist() == [video.key for video in videos]
    other = video_scores(predictions, prepared, pose=False, gesture=True)
    assert other["joints"].isna().all()
    right = predictions.logits.argmax(axis=1) == predictions.gesture
    assert other["correct"].tolist() == right.astype(int).tolist()


def test_mean_answers_average_softmax_scores_not_votes(params, prepared):
    labels = LabelSubset.draw(prepared, RATIO, 0)
    network = weak_training(params, prepared, initial_trunk(params.network, seed=0), CELLS[1], labels).network
    base = predict_videos(
        network, prepared, prepared.split("validation")[:2], params.runtime, segments=5, clips_per_batch=3
    )
    wrong = (base.gesture + 1) % len(prepared.gestures)

    def answering(right, sure):
        logits = np.zeros_like(base.logits)
        logits[np.arange(2), base.gesture if right else wrong] = sure
        return replace(base, logits=logits)

    # Two weak votes against one that is sure: softmax of 9 beats two of 0.5.
    assert mean_answers([answering(False, 0.5), answering(False, 0.5), answering(True, 9.0)], prepared)[
        "correct"
    ].tolist() == [1, 1]
    assert mean_answers([answering(False, 9.0), answering(True, 0.5)], prepared)["correct"].tolist() == [0, 0]


def hand_made(settings):
    """Scores with chosen numbers: of 10 joints a video, `hits` within 30 mm; of 3 videos so many right."""
    rows, cells = [], []
    hits = {"baseline": {0.25: 4, 0.5: 6}, "weak": {0.25: 7, 0.5: 6}}
    right = {"baseline": {0.25: 1, 0.5: 2}, "weak": {0.25: 3, 0.5: 2}}
    for direction, method, ratio, seed in product(("pose", "gesture"), ("baseline", "weak"), (0.25, 0.5), (0, 1)):
        cells.append((direction, method, ratio, seed, int(20 * ratio)))
        for video in range(3):
            pose = direction == "pose"
            rows.append(
                {
                    "direction": direction, "method": method, "ratio": ratio, "seed": seed, "video": f"v{video}",
                    "joints": 10 if pose else None, "hits_20": 1 if pose else None, "hits_25": 2 if pose else None,
                    "hits_30": hits[method][ratio] if pose else None, "error_mm": 250.0 if pose else None,
                    "correct": None if pose else int(video < right[method][ratio]),
                }
            )  # fmt: skip
    names = ["direction", "method", "ratio", "seed"]
    per_video = pd.DataFrame(rows)
    means = per_video[(per_video["direction"] == "gesture") & (per_video["seed"] == 0)][
        ["direction", "method", "ratio", "video", "correct"]
    ]
    return per_video, pd.DataFrame(cells, columns=[*names, "labelled_videos"]), means


def test_curves_and_gains_by_hand(params):
    settings = params.weak.model_copy(update={"ratios": (0.25, 0.5), "seeds": (0, 1), "bootstrap": 200})
    per_video, cells, means = hand_made(settings)
    curves = curve_table(per_video, cells)
    assert list(curves.columns) == ["direction", "method", "ratio", "seed", "labelled_videos", "metric", "value"]
    assert len(curves) == 8 * 4 + 8 * 1

    def value(direction, method, ratio, metric):
        rows = curves[(curves["direction"] == direction) & (curves["method"] == method) & (curves["ratio"] == ratio)]
        return rows[rows["metric"] == metric]["value"].tolist()

    assert value("pose", "weak", 0.25, "pck_30") == [0.7, 0.7]
    assert value("pose", "baseline", 0.5, "mean_error_mm") == [25.0, 25.0]
    assert value("gesture", "baseline", 0.25, "accuracy") == pytest.approx([1 / 3, 1 / 3], abs=1e-6)
    assert set(curves[curves["ratio"] == 0.25]["labelled_videos"]) == {5}
    found = gains(per_video, means, settings)
    pose, gesture = found["pose"], found["gesture"]
    assert pose["baseline"] == pytest.approx({"at_25": 0.4, "at_50": 0.6, "area": 0.5})
    gain = pose["weak"]["gain"]
    # Every video and seed has the same difference, so every resample has it too.
    for name in ("value", "low", "high"):
        assert gain["at_25"][name] == pytest.approx(0.3)
        assert gain["at_50"][name] == pytest.approx(0.0, abs=1e-12)
        assert gain["area"][name] == pytest.approx(0.15)
    assert gain["at_25"]["p"] == pytest.approx(2 / 201) and gain["at_25"]["p_holm"] == pytest.approx(4 / 201)
    assert gain["at_50"]["p"] == 1.0 and "p_holm" not in gain["area"] and "mcnemar" not in gain["at_25"]
    test = gesture["weak"]["gain"]["at_25"]["mcnemar"]
    assert (test["only_first"], test["only_second"], test["p"]) == (2, 0, 0.5)  # two discordant: 2 · ¼
    assert test["p"] == mcnemar(np.array([True] * 3), np.array([True, False, False])).p
    assert test["p_holm"] == holm([0.5, 1.0])[0] == 1.0
    assert gesture["weak"]["gain"]["at_25"]["value"] == pytest.approx(2 / 3)


def test_order_of_rows_does_not_matter(params):
    settings = params.weak.model_copy(update={"ratios": (0.25, 0.5), "seeds": (0, 1), "bootstrap": 100})
    per_video, _, means = hand_made(settings)
    shuffled = per_video.sample(frac=1.0, random_state=3)
    assert gains(shuffled, means.iloc[::-1], settings) == gains(per_video, means, settings)


def test_keys_of_ratios():
    assert [at(ratio) for ratio in (0.15, 0.4, 0.075, 1.0)] == ["at_15", "at_40", "at_7_5", "at_100"]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [("ratios: [0.15, 0.25, 0.4]", "ratios: [0.25, 0.15]", "0.15 comes after 0.25"),
     ("ratios: [0.15, 0.25, 0.4]", "ratios: [0.25, 0.25]", "0.25 is repeated"),
     ("ratios: [0.15, 0.25, 0.4]", "ratios: [0.15, 1.25]", "1.25 is not a share"),
     ("ratios: [0.15, 0.25, 0.4]", "ratios: [0.0, 0.25]", "0 is not a share"),
     ("ratios: [0.15, 0.25, 0.4]", "ratios: [0.15, 1]", "write 1.0, not 1"),
     ("ratios: [0.15, 0.25, 0.4]", "ratios: []", "weak.ratios"),
     ("seeds: [0, 1, 2]", "seeds: [0, 1, 1]", "weak.seeds: a seed stands in the list twice"),
     ("train_steps: 400", "train_steps: 407", "weak.train_steps: 407 is no multiple of log_every"),
     ("further_pose_methods: []", "further_pose_methods: [weak]", "weak.further_pose_methods"),
     ("steps_at: [0.6, 0.85]       # share of the steps", "steps_at: [0.85, 0.6]  #", "weak.steps_at: it has to rise")],
)  # fmt: skip
def test_settings_that_make_no_curve_are_refused_with_their_line(params, tmp_path, old, new, message):
    path = tmp_path / "params.yaml"
    path.write_text((Path(__file__).parents[1] / PARAMS_FILE).read_text())
    apply_profile("demo", path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message) as refused:
        load_params(path)
    assert "params.yaml:" in str(refused.value)


def test_a_split_without_videos_is_refused_before_anything_is_trained(tmp_path):
    path = tmp_path / "params.yaml"
    text = (Path(__file__).parents[1] / PARAMS_FILE).read_text()
    for old, new in (("validation: 0.15 ", "validation: 0.0 "), ("select: best", "select: last")):
        assert old in text
        text = text.replace(old, new)
    path.write_text(text.replace("split: test ", "split: validation "))
    with pytest.raises(InputError, match=r"params.yaml:\d+: weak.split: it is validation, but data.validation is 0"):
        load_params(path)
