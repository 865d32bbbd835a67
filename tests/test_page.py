"""The report page: self-contained, well-formed, equal for equal artefacts, and honest about its data."""

import json
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from gesturepose import page
from gesturepose.errors import InputError
from gesturepose.evaluation import evaluate_predictions, save_predictions, write_evaluation
from gesturepose.params import STREAMS, EvaluateSettings, apply_profile, load_params
from gesturepose.structures import Predictions
from project import PROJECT

VOID = {"meta", "link", "img", "br", "hr", "input", "source", "wbr"}
REMOTE = ("http:", "https:", "//", "file:", "ftp:")


class Reader(HTMLParser):
    """Collects tags, references and text, and refuses an end tag that does not fit."""

    def __init__(self, html):
        super().__init__()
        self.open, self.tags, self.references, self.ids, self.words = [], [], [], set(), []
        self.feed(html)
        self.close()
        assert self.open == [], "unclosed tags"
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        for name, value in attributes:
            if name in ("src", "href", "srcset", "action", "poster", "data", "xlink:href"):
                self.references.append(value)
            if name == "id":
                assert value not in self.ids, f"id {value} stands twice"
                self.ids.add(value)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> at {self.getpos()} inside {self.open[-3:]}"
        self.open.pop()

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


@pytest.fixture(scope="module")
def artefacts(prepared, tmp_path_factory):
    """What the stages before the report leave, with noisy true poses in the network's place."""
    folder = tmp_path_factory.mktemp("artefacts")
    videos = prepared.split("test")
    rows = np.concatenate([np.arange(video.start, video.start + video.frames) for video in videos])
    gesture = np.array([video.gesture for video in videos])
    rng = np.random.default_rng(0)
    classes = len(prepared.gestures)
    logits = np.eye(classes)[gesture] + rng.normal(size=(len(videos), classes))
    predictions = Predictions(
        video_of_frame=np.repeat(np.arange(len(videos)), [video.frames for video in videos]),
        frame=np.concatenate([np.arange(video.frames) for video in videos]),
        frame_valid=prepared.readable[rows],
        uv_px=prepared.joints_uv_px[rows] + rng.normal(scale=2, size=(len(rows), 21, 2)).astype(np.float32),
        joints_cam_mm=prepared.joints_cam_mm[rows] + rng.normal(scale=12, size=(len(rows), 21, 3)).astype(np.float32),
        true_uv_px=prepared.joints_uv_px[rows],
        true_joints_cam_mm=prepared.joints_cam_mm[rows],
        keys=np.array([video.key for video in videos]),
        subject=np.array([video.subject for video in videos]),
        gesture=gesture,
        logits=logits.astype(np.float32),
    )
    settings = EvaluateSettings(clips_per_batch=2, bootstrap=100, confidence=0.95)
    write_evaluation(evaluate_predictions(predictions, prepared, settings), folder / "evaluate")
    save_predictions(predictions, folder / "test.npz")
    (folder / "train.safetensors").write_bytes(b"weights")
    for stage in ("finetune", "train"):
        table = pd.DataFrame({"epoch": [1, 2], "split": "train", "learning_rate": 0.1, "loss": [2.0, 1.0]})
        table.to_csv(folder / f"{stage}.csv", index=False)
    return folder


def read(folder, prepared, params):
    return page.read_inputs(
        params,
        evaluation=folder / "evaluate",
        prepared=prepared.folder,
        predictions=folder / "test.npz",
        weights=folder / "train.safetensors",
        histories={stage: folder / f"{stage}.csv" for stage in ("finetune", "train")},
    )


@pytest.fixture(scope="module")
def inputs(artefacts, prepared, tmp_path_factory):
    settings = tmp_path_factory.mktemp("settings") / "params.yaml"
    shutil.copy(Path(__file__).parent.parent / "params.yaml", settings)
    apply_profile("test", settings)
    return read(artefacts, prepared, load_params(settings))


def renamed(inputs, name):
    return replace(inputs, index=inputs.index.model_copy(update={"name": name}))


def test_it_is_well_formed_and_needs_no_network(inputs):
    html = page.render_page(inputs)
    reader = Reader(html)
    assert "script" not in reader.tags and "link" not in reader.tags
    assert reader.references and "@import" not in html and "url(" not in html
    assert not any(remote in html for remote in ("http:", "https:", "file:"))
    for reference in reader.references:
        assert not reference.startswith(REMOTE)
        assert reference.startswith("data:image/png;base64,") or reference.removeprefix("#") in reader.ids


def test_equal_artefacts_are_equal_bytes(artefacts, prepared, params, inputs, tmp_path):
    copy = tmp_path / "elsewhere"
    shutil.copytree(artefacts, copy)
    page.write_page(inputs, tmp_path / "a" / "index.html")
    page.write_page(read(copy, prepared, params), tmp_path / "b" / "index.html")
    content = (tmp_path / "a" / "index.html").read_bytes()
    assert content == (tmp_path / "b" / "index.html").read_bytes()
    assert str(tmp_path).encode() not in content and str(artefacts).encode() not in content


def test_every_headline_number_stands_on_it_as_metrics_json_has_it(artefacts, inputs):
    metrics = json.loads((artefacts / "evaluate" / "metrics.json").read_text())
    text = Reader(page.render_page(inputs)).text.replace("\u00a0", " ")
    pose, gesture = metrics["pose"], metrics["gesture"]
    shares = [gesture["accuracy"], gesture["macro_accuracy"], gesture["chance"]]
    shares += [source["pck_30"] for source in pose["baselines"].values()]
    for alignment in ("root_aligned", "camera"):
        for joints in ("joints21", "joints20"):
            score = pose[alignment][joints]
            shares += [score["pck_20"], score["pck_25"], score["pck_30"]]
            assert f"{score['auc']:.3f}" in text and f"{score['mean_error_mm']:.1f} mm" in text
    for share in shares:
        assert f"{100 * share:.1f} %" in text
    assert f"{100 * gesture['accuracy_low']:.1f}–{100 * gesture['accuracy_high']:.1f} %" in text
    assert f"{pose['error_2d_px']:.1f} px" in text
    best = max(source["pck_30"] for source in pose["baselines"].values())
    assert f"Gap closed {100 * (pose['root_aligned']['joints21']['pck_30'] - best) / (1 - best):.1f} %" in text
    for printed in ("85.22 %", "81.03 %", "86.61 %", "90.11 %", "89.3 %", "82.96 %", "95.13 %", "not measured here"):
        assert printed in text


def test_it_names_its_data_seeds_settings_and_fingerprints(inputs, params, prepared):
    text = Reader(page.render_page(inputs)).text
    for word in ("synthetic", "official", "root-aligned", "21 joints", "true wrist depth", "no interval over seeds"):
        assert word in text
    assert prepared.fingerprint in text and "dvc repro" in text
    assert f"{len(prepared.split('test'))} test videos" in text
    for section, values in page.shown_settings(params).items():
        assert section in text and all(key in text for key in values)
    assert "unpruned_epochs" not in text  # of another pipeline, whose page shows it


def test_the_stage_depends_on_all_settings_that_the_page_shows(params):
    stage = yaml.safe_load((PROJECT / "dvc.yaml").read_text())["stages"]["report"]
    assert set(stage["params"]) == set(page.shown_settings(params))


def test_the_banner_is_there_unless_the_data_is_fpha(inputs):
    warning = "say nothing about FPHA and cannot be compared with the paper's"
    assert f"Synthetic data: these numbers {warning}" in Reader(page.render_page(inputs)).text
    assert f"Data “kitchen”: these numbers {warning}" in Reader(page.render_page(renamed(inputs, "kitchen"))).text
    fpha = page.render_page(renamed(inputs, "FPHA"))
    assert "cannot be compared" not in fpha and 'class="banner"' not in fpha


def test_a_part_of_fpha_and_another_protocol_are_said(inputs):
    changed = {"name": "FPHA", "protocol": "pose_cross_subject", "missing": ("Subject_1/write/1", "Subject_1/write/2")}
    text = Reader(page.render_page(replace(inputs, index=inputs.index.model_copy(update=changed)))).text
    assert "Protocol pose_cross_subject" in text and "2 sequences of the split are missing" in text


def test_names_are_escaped(inputs):
    table = inputs.per_class.copy()
    table.loc[0, "gesture"] = '<b onclick="x">&stir'
    html = page.render_page(renamed(replace(inputs, per_class=table), "<script>alert(1)</script>"))
    reader = Reader(html)
    assert "script" not in reader.tags and "b" not in reader.tags
    assert '<b onclick="x">&stir' in reader.text and "<script>alert(1)</script>" in reader.text


@pytest.mark.parametrize(
    ("changes", "rows"),
    [
        ({"iterations": 1, "streams": ("zero",), "multi_scale": False}, {"table1": "baseline"}),
        ({"iterations": 1, "streams": ("zero",), "multi_scale": True}, {"table1": "multi_scale", "table3": "1"}),
        ({"iterations": 1, "streams": STREAMS, "multi_scale": True}, {"table1": "multi_order"}),
        ({"iterations": 2, "streams": STREAMS[::-1], "multi_scale": True}, {"table1": "complete", "table4": "all"}),
        ({"iterations": 2, "streams": ("zero",), "multi_scale": True}, {"table3": "2", "table4": "zero"}),
        ({"iterations": 2, "streams": ("zero", "first_fast", "second_fast"), "multi_scale": True}, {"table4": "fast"}),
        ({"iterations": 5, "streams": ("zero",), "multi_scale": True}, {"table3": "5"}),
        ({"iterations": 3, "streams": STREAMS, "multi_scale": True}, {}),
    ],
)
def test_our_value_stands_in_the_row_that_has_our_settings(inputs, params, changes, rows):
    network = params.network.model_copy(update=changes)
    assert page.paper_rows(network) == rows
    html = page.render_page(replace(inputs, params=params.model_copy(update={"network": network})))
    Reader(html)
    # Table 2 has two rows of ours and the published results one, whatever the settings.
    assert html.count('<tr class="mine">') == 3 + len(rows)


def test_no_gap_is_left_above_a_perfect_baseline():
    pose = {"baselines": {"mean_pose": {"pck_30": 0.5}, "nearest_frame": {"pck_30": 0.6}}}
    pose["root_aligned"] = {"joints21": {"pck_30": 0.8}}
    assert page.gap_closed(pose) == pytest.approx(0.5)
    pose["baselines"]["nearest_frame"]["pck_30"] = 1.0
    assert page.gap_closed(pose) is None


def test_the_figures_are_written_as_they_stand_on_the_page(inputs, tmp_path):
    page.write_figures(inputs, tmp_path / "figures")
    names = ["confusion", "pck_curve", "per_class", "qualitative", "training_finetune", "training_train"]
    assert sorted(path.stem for path in (tmp_path / "figures").iterdir()) == names
    html = page.render_page(inputs)
    assert all(inputs.figures[name].base64 in html for name in names)
    assert (tmp_path / "figures" / "qualitative.png").read_bytes() == inputs.figures["qualitative"].png


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("evaluate/metrics.json", "evaluate"),
        ("evaluate/pck_curve.csv", "evaluate"),
        ("evaluate/confusion.csv", "evaluate"),
        ("evaluate/per_class.csv", "evaluate"),
        ("test.npz", "evaluate"),
        ("finetune.csv", "finetune"),
        ("train.csv", "train"),
        ("train.safetensors", "train"),
    ],
)
def test_a_missing_artefact_is_named_with_its_stage(artefacts, prepared, params, tmp_path, name, stage):
    folder = tmp_path / "artefacts"
    shutil.copytree(artefacts, folder)
    (folder / name).unlink()
    with pytest.raises(InputError) as caught:
        read(folder, prepared, params)
    assert caught.value.file == folder / name and f"The {stage} stage" in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("evaluate/metrics.json", "{", "not JSON"),
        ("evaluate/metrics.json", '{"gesture": 1}', "the key gesture.accuracy is missing"),
        ("evaluate/confusion.csv", "actual\nwrite\n", "the column predicted is missing"),
        ("evaluate/confusion.csv", "actual,predicted\nfly,fly\n", "not of the prepared data"),
        ("train.csv", "", "not a table"),
        ("train.csv", "epoch,split,loss,learning_rate\n", "no rows"),
    ],
)
def test_a_broken_artefact_is_named(artefacts, prepared, params, tmp_path, name, content, message):
    folder = tmp_path / "artefacts"
    shutil.copytree(artefacts, folder)
    (folder / name).write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read(folder, prepared, params)
    assert caught.value.file is not None
