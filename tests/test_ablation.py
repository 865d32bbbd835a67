"""Ablation: rows are the paper's, trained alike, scored and tested by hand, shown with their paper's numbers."""

import json
from dataclasses import replace
from typing import get_args

import numpy as np
import pandas as pd
import pytest
import torch

from gesturepose.ablation.page import read_tables, render_tables_page
from gesturepose.ablation.paper import TABLES
from gesturepose.ablation.rows import CHANGES, row_settings, shown_rows
from gesturepose.ablation.scoring import ScoreTables, network_cost
from gesturepose.ablation.tables import result_tables, row_tests
from gesturepose.ablation.training import row_training
from gesturepose.backbone import initial_trunk
from gesturepose.checkpoint import save_weights
from gesturepose.data.clips import evaluation_loader
from gesturepose.engine import Execution, infer, predict
from gesturepose.errors import InputError
from gesturepose.evaluation import rounded
from gesturepose.experiment import fit
from gesturepose.models.collaborative import build_network
from gesturepose.params import NetworkRow, apply_profile, load_params
from gesturepose.references.cells import (
    build_reference,
    load_reference,
    predict_with_reference,
    reference_header,
    reference_training,
)
from gesturepose.references.flow import STACK, FlowStacks, write_flow
from gesturepose.references.gesture_only import gesture_predictions
from gesturepose.references.pose_lstm import LSTM_WIDTH, FramePoses
from gesturepose.significance import holm, mcnemar
from gesturepose.skeleton import JOINTS
from project import PROJECT, edit

REFERENCES = ("lstm_annotated", "lstm_predicted", "colour", "flow", "hp", "hp_ac")


def changed(params, **values):
    return params.model_copy(update={"ablation": params.ablation.model_copy(update=values)})


@pytest.fixture
def full(params):
    """The `test` profile's settings with all rows, three seeds."""
    return changed(
        params,
        rows=get_args(NetworkRow),
        crops=("frame",),
        references=("lstm_annotated", "colour", "hp", "hp_ac"),
        flow_references=("flow",),
        pose_references=("lstm_predicted",),
        seeds=(0, 1, 2),
        bootstrap=200,
    )


# Rows


def test_every_row_of_the_tables_can_be_trained_and_every_trained_row_stands_in_a_table(full):
    assert set(CHANGES) == set(get_args(NetworkRow))
    in_tables = {entry.row for table in TABLES for entry in table.entries}
    assert in_tables == set(shown_rows(full.ablation))
    for table in TABLES:
        rows = [entry.row for entry in table.entries]
        assert len(set(rows)) == len(rows)
        assert all(entry.against is None or entry.against in rows for entry in table.entries)
        assert table.best_other is None or table.best_other in rows


def test_rows_have_their_own_settings_once(params):
    settings = [row_settings(row, params.network) for row in get_args(NetworkRow)]
    assert len({str(of_row) for of_row in settings}) == len(settings)


def test_a_row_does_not_depend_on_the_settings_that_the_tables_vary(params):
    other = params.network.model_copy(
        update={
            "iterations": 4,
            "streams": ("first_fast",),
            "multi_scale": False,
            "share_iterations": True,
            "detach_slow_fast": False,
        }
    )
    for row in (*get_args(NetworkRow), "crop_frame"):
        assert row_settings(row, other) == row_settings(row, params.network)


def test_rows_are_the_papers(params):
    def of(row):
        found = row_settings(row, params.network)
        return found.iterations, found.streams, found.multi_scale

    every = ("zero", "first_slow", "first_fast", "second_slow", "second_fast")
    assert of("baseline") == (1, ("zero",), False) and of("multi_scale") == (1, ("zero",), True)
    assert of("multi_order") == (1, every, True) and of("complete") == of("crop_frame") == (2, every, True)
    assert of("zero_4") == (4, ("zero",), True) and of("all_5") == (5, every, True)
    assert of("slow") == (2, ("zero", "first_slow", "second_slow"), True)
    assert row_settings("tcn_grid_1", params.network).tcn_grid == 1 != params.network.tcn_grid
    printed = {
        (table.key, entry.row): (entry.paper_accuracy, entry.paper_pck_30)
        for table in TABLES
        for entry in table.entries
    }
    assert printed["table_1", "baseline"] == ("72.17", None) and printed["table_4", "second"] == ("83.80", None)
    assert printed["table_3", "zero_3"] == ("81.7", "89.8") and printed["table_3_multi_order", "all_3"] == (None, None)
    assert printed["references", "both"] == ("75.30", None) and printed["references", "lstm_annotated"] == (None, None)


@pytest.mark.parametrize(
    ("edits", "message"),
    [
        ({"rows: [baseline,": "rows: [base_line,"}, "ablation.rows"),
        ({"rows: [baseline,": "rows: [complete,"}, "ablation.rows: an entry stands in the list twice"),
        ({"train_steps: 300": "train_steps: 301"}, "ablation.train_steps: 301 is no multiple of log_every 20"),
        ({"lstm_steps: 2000": "lstm_steps: 2010"}, "ablation.lstm_steps: 2010 is no multiple of log_every 20"),
        ({"finetune_steps: 300": "finetune_steps: 310", "log_every: 20": "log_every: 10"},  # the first is of weak
         "ablation.log_every: weak.finetune_steps 310 is no multiple of 20"),
        ({"seeds: [0, 1, 2]            # of weak": "seeds: [0, 5]            # of weak"},
         "ablation.seeds: it has 5 and weak.seeds has not"),
        ({"multi_order, complete,": "multi_order,"},
         "ablation.pose_references: lstm_predicted reads the poses of the row complete"),
        ({"crop: clip ": "crop: frame "}, "ablation.crops: it has frame, and so has prepare.crop"),
    ],
)  # fmt: skip
def test_settings_that_make_no_tables_are_refused(tmp_path, edits, message):
    path = tmp_path / "params.yaml"
    path.write_text((PROJECT / "params.yaml").read_text())
    apply_profile("demo", path)
    load_params(path)
    for old, new in edits.items():
        edit(path, old, new)
    with pytest.raises(InputError, match=message):
        load_params(path)


# Trainings


def test_rows_of_a_seed_see_the_same_clips_and_end_with_their_last_step(params, prepared):
    params = changed(params, train_steps=4, log_every=2, seeds=(3,))
    seen = {}
    for row in ("baseline", "zero_3"):
        training = row_training(params, prepared, initial_trunk(params.network, seed=3), row, 3)
        batches = [batch for epoch in (1, 2) for batch in training.batches(epoch)]
        seen[row] = [(batch.video_index.tolist(), batch.frame_index.tolist()) for batch in batches]
        assert all(batch.joint_valid.any() and batch.gesture_valid.all() for batch in batches)
        epochs = list(fit(training))
        assert [epoch.number for epoch in epochs] == [1, 2] and not training.validation_videos
        last = training.network.state_dict()
        assert all(torch.equal(tensor, last[name].cpu()) for name, tensor in training.weights().items())
    assert seen["baseline"] == seen["zero_3"] and len(seen["zero_3"]) == 4
    names = {prepared.videos[index].split for videos, _ in seen["zero_3"] for index in videos}
    assert names == {"train"}


@pytest.fixture(scope="module")
def flow_file(prepared, tmp_path_factory):
    path = tmp_path_factory.mktemp("flow") / "flow.npy"
    write_flow(prepared, path, workers=1)
    return path


def input_of(name, data, flow_file):
    if name in ("lstm_annotated", "lstm_predicted"):
        return FramePoses.annotated(data)
    return FlowStacks.open(flow_file, data) if name == "flow" else None


@pytest.mark.parametrize("name", REFERENCES)
def test_references_resume_to_the_bit_and_come_back(name, params, prepared, flow_file, tmp_path):
    params = changed(params, train_steps=4, lstm_steps=4, log_every=2)

    def new():
        trunk = initial_trunk(params.network, seed=0)
        return reference_training(params, prepared, trunk, name, 0, input_of(name, prepared, flow_file))

    whole, resumed = new(), new()
    epochs = list(fit(whole))
    steps = 4 + (params.weak.finetune_steps if name in ("colour", "flow") else 0)
    assert len(epochs) * 2 == steps
    interrupted = fit(new(), tmp_path / "state.pt")
    next(interrupted)
    interrupted.close()
    assert [epoch.metrics for epoch in fit(resumed, tmp_path / "state.pt")] == [epoch.metrics for epoch in epochs]
    assert all(torch.equal(tensor, resumed.weights()[key]) for key, tensor in whole.weights().items())

    path = tmp_path / "cell.safetensors"
    save_weights(path, whole.weights(), reference_header(name, prepared))
    loaded_name, network = load_reference(path, params.network, prepared)
    assert loaded_name == name
    videos = prepared.split("test")
    found = predict_with_reference(network, input_of(name, prepared, flow_file), prepared, videos, params)
    assert found.frame_valid.all() and np.isfinite(found.logits).all() and (found.logits.std(axis=0) > 0).any()
    assert np.isfinite(found.joints_cam_mm).all() == (name in ("hp", "hp_ac"))
    other = replace(prepared, index=prepared.index.model_copy(update={"gestures": (*prepared.gestures, "x")}))
    with pytest.raises(InputError, match="trained with gestures"):
        load_reference(path, params.network, other)


def test_weights_of_something_else_are_refused(params, prepared, tmp_path):
    save_weights(tmp_path / "cell.safetensors", {"a": torch.zeros(1)}, {"gestures": []})
    with pytest.raises(InputError, match="not the weights of a reference system"):
        load_reference(tmp_path / "cell.safetensors", params.network, prepared)


# Costs


def test_costs_of_an_lstm_by_hand(params, prepared):
    lstm = build_reference("lstm_annotated", params.network, initial_trunk(params.network, seed=0), prepared)
    inputs, width, gestures, frames = 3 * (JOINTS - 1), LSTM_WIDTH, len(prepared.gestures), 5
    cost = network_cost(lstm, prepared, segments=frames)
    assert cost.parameters == 4 * width * (inputs + width + 2) + gestures * (width + 1)
    expected = (frames * 4 * width * (inputs + width) + width * gestures) / frames
    assert cost.gmac * 1e9 == pytest.approx(expected)


def test_costs_grow_with_iterations_and_not_with_streams_by_much(params, prepared):
    def cost(row):
        settings = row_settings(row, params.network)
        trunk = initial_trunk(settings, seed=0)
        network = build_network(settings, trunk, gestures=4, image_size=prepared.image_size)
        return network_cost(network, prepared, segments=4)

    one, two, three = cost("multi_scale"), cost("zero_2"), cost("zero_3")
    # The first iteration reads 𝒥, the others 𝒥 and 𝒢 through a passage of their own: equal steps after the first.
    assert 0 < one.gmac < two.gmac < three.gmac
    assert three.parameters - two.parameters == two.parameters - one.parameters > 0
    assert cost("shared").parameters < cost("complete").parameters
    assert cost("shared").gmac == pytest.approx(cost("complete").gmac)
    flow = build_reference("flow", params.network, initial_trunk(params.network, seed=0), prepared)
    colour = build_reference("colour", params.network, initial_trunk(params.network, seed=0), prepared)
    more = network_cost(flow, prepared, segments=4).parameters - network_cost(colour, prepared, segments=4).parameters
    assert more == (2 * STACK - 3) * 64 * 49


# Scores and tables


def test_both_streams_follow_from_the_two(params, prepared):
    videos = prepared.split("test")
    true = np.array([video.gesture for video in videos])
    empty = gesture_predictions([], prepared, videos)
    seen = replace(empty, frame_valid=np.ones_like(empty.frame_valid))
    gestures = len(prepared.gestures)
    right = 3.0 * np.eye(gestures, dtype=np.float32)[true]
    wrong = 2.0 * np.eye(gestures, dtype=np.float32)[(true + 1) % gestures]
    lstm = build_reference("lstm_annotated", params.network, initial_trunk(params.network, seed=0), prepared)
    cost = network_cost(lstm, prepared, segments=4)
    scored = ScoreTables()
    for seed in (0, 4):
        scored.add("colour", seed, replace(seen, logits=right), prepared, "a", cost)
        scored.add("flow", seed, replace(seen, logits=wrong), prepared, "b", cost)
    scored.add_both_streams()
    tables = scored.tables()
    accuracy = tables["per_video"].groupby(["row", "seed"])["correct"].mean()
    assert accuracy["colour", 4] == 1.0 and accuracy["flow", 4] == 0.0 and accuracy["both", 4] == 1.0
    assert tables["per_video"]["joints"].isna().all()
    cells = tables["cells"].set_index(["row", "seed"])
    assert cells.loc[("both", 0), "parameters"] == 2 * cost.parameters
    assert tables["seed_mean"].groupby("row")["correct"].mean().to_dict() == {"colour": 1.0, "flow": 0.0, "both": 1.0}


def test_poses_are_scored_where_there_are_some(params, prepared):
    videos = prepared.split("test")
    network = build_reference("hp", params.network, initial_trunk(params.network, seed=0), prepared)
    batches = evaluation_loader(prepared, videos, segments=4, clips_per_batch=3)
    execution = Execution(torch.device("cpu"), torch.float32)
    predictions = predict(infer(network, batches, execution, title="hp"), prepared, videos)
    scored = ScoreTables()
    scored.add("hp", 0, predictions, prepared, "a", network_cost(network, prepared, segments=4))
    scored.add_both_streams()
    table = scored.tables()["per_video"]
    assert set(table["row"]) == {"hp"} and (table["joints"] > 0).all() and (table["hits_30"] <= table["joints"]).all()


SEEDS, VIDEOS = (0, 1, 2), 5
SHARE = {  # of a row's videos that are right, and of its joints within 30 mm, for each seed alike
    "baseline": (1, 2), "multi_scale": (2, 4), "multi_order": (3, 4), "complete": (4, 6), "zero_2": (2, 5),
    "first": (3, 5), "second": (4, 5), "colour": (1, None),
}  # fmt: skip


def hand_made():
    """Each row's first videos are right; 10 joints a video, of which so many are within 30 mm."""
    lines = []
    for row, (right, hits) in SHARE.items():
        for seed in SEEDS:
            for video in range(VIDEOS):
                line = {"row": row, "seed": seed, "video": f"v{video}", "correct": int(video < right)}
                lines.append(line | ({"joints": 10, "hits_30": hits} if hits else {}))
    per_video = pd.DataFrame(lines)
    means = per_video[per_video["seed"] == 0][["row", "video", "correct"]]
    cells = pd.DataFrame(
        [{"row": row, "seed": seed, "weights": "x", "data": "cd34" if row == "first" else "ab12", "parameters": 7,
          "gmac_a_frame": 0.25}
         for row in SHARE for seed in SEEDS]
    )  # fmt: skip
    return per_video, means, cells


def test_tables_by_hand():
    per_video, _, cells = hand_made()
    per_video.loc[(per_video["row"] == "baseline") & (per_video["seed"] == 2), "correct"] = 1
    table = result_tables(per_video, cells).set_index(["table", "row"])
    baseline = table.loc[("table_1", "baseline")]
    assert baseline["accuracy_mean"] == pytest.approx((0.2 + 0.2 + 1.0) / 3, abs=1e-6)
    assert baseline["accuracy_std"] == pytest.approx(np.std([0.2, 0.2, 1.0], ddof=1), abs=1e-6)
    assert (baseline["pck_30_mean"], baseline["pck_30_std"]) == (0.2, 0.0)
    assert (baseline["paper_accuracy"], baseline["seeds"], baseline["parameters"]) == (0.7217, 3, 7)
    assert np.isnan(baseline["paper_pck_30"]) and table.loc[("table_3", "zero_2"), "paper_pck_30"] == 0.893
    assert np.isnan(table.loc[("references", "colour"), "pck_30_mean"])
    assert table.index.get_level_values("table").unique().tolist() == [
        "table_1", "table_3", "table_3_multi_order", "table_4", "references",
    ]  # fmt: skip
    one_seed = result_tables(per_video[per_video["seed"] == 0], cells)
    assert one_seed["accuracy_std"].isna().all() and (one_seed["seeds"] == 1).all()


def test_rows_are_tested_against_the_right_ones_by_hand(full):
    per_video, means, _ = hand_made()
    found = row_tests(per_video, means, full.ablation)
    pairs = {key: {row: list(values.get("against", {})) for row, values in rows.items()} for key, rows in found.items()}
    assert pairs == {
        "table_1": {"baseline": [], "multi_scale": ["baseline"], "multi_order": ["multi_scale"],
                    "complete": ["multi_order"]},
        "table_3": {"multi_scale": [], "zero_2": ["multi_scale"]},
        "table_3_multi_order": {"multi_order": [], "complete": ["multi_order"]},
        "table_4": {"zero_2": [], "first": ["zero_2"], "second": ["zero_2"], "complete": ["zero_2", "second"]},
        "references": {"complete": [], "colour": ["complete"]},
    }  # fmt: skip
    step = found["table_1"]["multi_order"]["against"]["multi_scale"]
    assert step["pck_30"]["value"] == step["pck_30"]["low"] == step["pck_30"]["high"] == 0.0
    assert step["pck_30"]["p"] == step["pck_30"]["p_holm"] == 1.0
    assert step["accuracy"]["value"] == pytest.approx(0.2)
    by_hand = mcnemar(np.arange(VIDEOS) < 3, np.arange(VIDEOS) < 2)
    assert (step["mcnemar"]["only_first"], step["mcnemar"]["p"]) == (by_hand.only_first, by_hand.p) == (1, 1.0)
    # Every video has the same difference, so that every resample has it: Holm over the three rows of the table.
    raw = [
        found["table_1"][row]["against"][other]["pck_30"]["p"]
        for row, other in (("multi_scale", "baseline"), ("multi_order", "multi_scale"), ("complete", "multi_order"))
    ]
    assert raw == pytest.approx([2 / 201, 1.0, 2 / 201])  # fmt: skip
    assert found["table_1"]["complete"]["against"]["multi_order"]["pck_30"]["p_holm"] == holm(raw)[2]
    assert "pck_30" not in found["references"]["colour"]["against"]["complete"]
    assert found["references"]["colour"].keys() == {"accuracy", "against"}
    assert found["references"]["colour"]["accuracy"] == pytest.approx(0.2)
    shuffled = per_video.sample(frac=1.0, random_state=1)
    assert rounded(row_tests(shuffled, means.iloc[::-1], full.ablation)) == rounded(found)


def write_report(folder, params, *, data="synthetic"):
    per_video, means, cells = hand_made()
    result_tables(per_video, cells).to_csv(folder / "tables.csv", index=False)
    cells.to_csv(folder / "cells.csv", index=False)
    described = {"name": data, "protocol": "official", "split": "test", "videos": VIDEOS, "fingerprint": "ab12"}
    values = {"data": described, "seeds": 3, **row_tests(per_video, means, params.ablation)}
    (folder / "metrics.json").write_text(json.dumps(rounded(values)))


def test_the_page_says_every_row_its_test_and_whose_number_is_whose(full, tmp_path):
    write_report(tmp_path, full)
    inputs = read_tables(full, tmp_path)
    text = render_tables_page(inputs).replace("\u00a0", " ")
    assert render_tables_page(read_tables(full, tmp_path)).replace("\u00a0", " ") == text
    for expected in (
        "72.17 %", "78.26 %", "83.83 %", "85.22 %", "61.56 %", "89.3 %",
        "20.0 ± 0.0 %", "cannot be compared with the paper", "no poses", "no significant difference",
        "PCK@30 0.0 points (0.0 to 0.0), p = 1.000: no significant difference",
        "McNemar: alone right on 1, the other on 0 of 5 videos, p = 1.000: no significant difference",
        "Not trained with these settings: 3 iterations; 4 iterations; 5 iterations", "0.250", "ab12",
        "prepared data of first", "cd34",
        "dvc status pipelines/ablation/dvc.yaml",
    ):  # fmt: skip
        assert expected in text, expected
    assert "Preliminary" not in text and "<script" not in text and "http" not in text
    assert inputs.figure.png.startswith(b"\x89PNG")
    few = changed(full, seeds=(0,))
    assert "Preliminary: fewer than 3 seeds (1)." in render_tables_page(read_tables(few, tmp_path))
    (tmp_path / "tables.csv").unlink()
    with pytest.raises(InputError, match=r"tables\.csv: no such file"):
        read_tables(full, tmp_path)
