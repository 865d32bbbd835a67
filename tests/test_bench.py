"""The bench: its arithmetic, its peaks of memory, its files, and a part of it for real."""

import json
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

from gesturepose.bench.__main__ import CASES, SECTIONS, app, select
from gesturepose.bench.cuda import GPU
from gesturepose.bench.machine import describe, usable_cores
from gesturepose.bench.measure import (
    Measurement,
    Row,
    Section,
    Values,
    alternately,
    milliseconds_each,
    not_measured,
    paired_ratios,
    rates,
    ratio_interval,
    row,
    spread,
)
from gesturepose.bench.memory import MIB, allocate_moments, peak_bytes, state_bytes, step_mib
from gesturepose.bench.steps import SETTINGS, ladder, other_settings
from gesturepose.bench.table import Table, markdown, recommendations, write_table
from gesturepose.bench.trainings import build_training, paper_params, plain_variant, variant
from gesturepose.bench.workplace import Workplace, switches_kept
from gesturepose.errors import InputError
from gesturepose.experiment import prepare_execution
from gesturepose.noise import random_batch

CPU = torch.device("cpu")
FIELDS = [
    "name", "value", "unit", "baseline_name", "baseline_value", "ratio", "ratio_low", "ratio_high", "repeats", "spread",
    "not_measured",
]  # fmt: skip
FIRST, SECOND = Section(title="First", about="What is first."), Section(title="Second", about="What is second.")


class Clock:
    """Time that passes only where a side says so."""

    def __init__(self):
        self.now = 100.0
        self.calls = []

    def __call__(self):
        return self.now

    def side(self, name, *durations):
        remaining = iter(durations)

        def work():
            self.calls.append(name)
            self.now += next(remaining)

        return work


def table(params, rows, sections):
    return Table(machine=describe(params.runtime), commit="0123abc", dirty=True, sections=sections, rows=rows)


# Time


def test_sides_run_in_turn_and_the_first_round_is_not_counted():
    clock = Clock()
    sides = {"own": clock.side("own", 50.0, 2.0, 3.0, 4.0), "plain": clock.side("plain", 70.0, 5.0, 6.0, 7.0)}
    assert alternately(sides, 3, clock=clock) == {"own": [2.0, 3.0, 4.0], "plain": [5.0, 6.0, 7.0]}
    assert clock.calls == ["own", "plain", "plain", "own", "own", "plain", "plain", "own"]


def test_without_a_warm_up_every_round_counts():
    clock = Clock()
    assert alternately({"own": clock.side("own", 2.0, 3.0)}, 2, warm_up=False, clock=clock) == {"own": [2.0, 3.0]}


def test_what_stands_before_a_side_is_called_for_it_and_takes_no_time():
    clock = Clock()

    def before(name):
        clock.calls.append(f"before {name}")
        clock.now += 1000.0

    sides = {"own": clock.side("own", 2.0, 2.0), "plain": clock.side("plain", 5.0, 5.0)}
    assert alternately(sides, 1, before=before, clock=clock) == {"own": [2.0], "plain": [5.0]}
    assert clock.calls == [call for name in ("own", "plain", "plain", "own") for call in (f"before {name}", name)]


# Rows


def test_spread_is_the_interquartile_range_over_the_median():
    assert spread([7.0]) == 0.0 and spread([0.0, 0.0]) == 0.0
    assert spread([10.0, 20.0, 30.0, 40.0, 50.0]) == pytest.approx(20 / 30)
    assert spread([-10.0, -20.0, -30.0, -40.0, -50.0]) == pytest.approx(20 / 30)


def test_ratio_is_above_one_where_a_row_is_better_whatever_its_unit():
    own, plain = [2.0, 4.0, 3.0], [8.0, 8.0, 12.0]
    in_seconds = row("parse", own, "s", Values("plain", plain))
    assert (in_seconds.value, in_seconds.baseline_value, in_seconds.ratio, in_seconds.repeats) == (3.0, 8.0, 4.0, 3)
    as_rate = row("parse", rates(24, own), "frames/s", Values("plain", rates(24, plain)))
    assert (as_rate.value, as_rate.baseline_value, as_rate.ratio) == (8.0, 3.0, 4.0)
    each = row("parse", milliseconds_each(500, own), "ms/frame", Values("plain", milliseconds_each(500, plain)))
    assert (each.value, each.ratio) == (6.0, 4.0)
    assert row("step", [50.0], "MiB", Values("plain", [150.0])).ratio == 3.0


def test_ratio_is_of_the_pairs_so_that_a_slow_moment_of_both_cancels():
    both_slow_once = row("parse", [1.0, 9.0, 1.0, 1.0], "s", Values("plain", [2.0, 18.0, 2.0, 2.0]))
    assert (both_slow_once.ratio, both_slow_once.ratio_low, both_slow_once.ratio_high) == (2.0, 2.0, 2.0)
    with pytest.raises(ValueError):
        paired_ratios([1.0, 2.0], [1.0], "s")


def test_interval_of_a_ratio_is_that_of_resampled_pairs():
    assert ratio_interval([1.7]) == (1.7, 1.7)
    low, high = ratio_interval([1.0, 2.0, 3.0])
    assert (low, high) == (1.0, 3.0)  # 7 of 27 resamples have either end as their median
    many = [1.0 + 0.01 * (number % 11) for number in range(400)]
    low, high = ratio_interval(many)
    assert 1.03 <= low <= 1.05 <= high <= 1.07
    assert ratio_interval(many) == (low, high)
    with_an_outlier = ratio_interval([1.0] * 20 + [50.0])
    assert with_an_outlier == (1.0, 1.0)


def test_without_a_baseline_there_is_no_ratio_and_unmeasured_there_is_nothing():
    alone = row("alone", [5.0], "frames/s")
    assert (alone.baseline_name, alone.baseline_value, alone.ratio, alone.ratio_low) == (None, None, None, None)
    missing = not_measured("on a GPU", "MiB", "needs a CUDA device", "plain")
    assert (missing.value, missing.ratio, missing.ratio_high, missing.spread, missing.repeats) == (*[None] * 4, 0)
    assert (missing.baseline_name, missing.not_measured) == ("plain", "needs a CUDA device")


# Memory


def test_peak_is_the_most_that_lives_at_once():
    def work():
        first = torch.empty(10 * int(MIB), dtype=torch.uint8)
        second = torch.empty(20 * int(MIB), dtype=torch.uint8)
        del first
        third = torch.empty(5 * int(MIB), dtype=torch.uint8)
        return len(second) + len(third)

    assert peak_bytes(work, CPU) == 30 * MIB
    assert peak_bytes(work, CPU) == 30 * MIB  # nothing of the first time is counted


def test_peak_counts_what_a_backward_pass_keeps():
    """exp keeps its result: x → exp → exp keeps two maps, and the gradient adds one while it passes through."""
    x = torch.zeros(int(MIB) // 4, requires_grad=True)  # 1 MiB
    forward = peak_bytes(lambda: torch.exp(torch.exp(x)), CPU)
    assert 2 * MIB <= forward < 2.1 * MIB
    x.grad = None
    both = peak_bytes(lambda: torch.exp(torch.exp(x)).sum().backward(), CPU)
    assert 3 * MIB <= both < 4.1 * MIB


def test_memory_of_a_step_has_the_weights_their_gradients_and_two_moments(params, prepared):
    training = build_training(params, prepared, variant(params.runtime))
    weights = sum(parameter.numel() * parameter.element_size() for parameter in training.network.parameters())
    buffers = sum(buffer.numel() * buffer.element_size() for buffer in training.network.buffers())
    assert state_bytes(training) == weights + buffers
    before = {name: tensor.clone() for name, tensor in training.network.state_dict().items()}
    allocate_moments(training.optimiser)
    assert all(torch.equal(tensor, before[name]) for name, tensor in training.network.state_dict().items())
    counts = 4 * sum(1 for _ in training.network.parameters())  # Adam's number of steps, fp32
    assert state_bytes(training) == 3 * weights + buffers + counts
    batch = random_batch(2, 3, prepared.image_size, len(prepared.gestures))
    assert step_mib(training, batch) > (4 * weights + buffers) / MIB
    assert step_mib(training, batch) == step_mib(training, batch)


def test_memory_of_a_step_grows_with_its_frames_and_with_the_plain_network(params, prepared):
    own = build_training(params, prepared, variant(params.runtime))
    plain = build_training(params, prepared, plain_variant(params.runtime))
    small, large = (random_batch(clips, 5, prepared.image_size, len(prepared.gestures)) for clips in (1, 4))
    assert step_mib(own, small) < step_mib(own, large) < step_mib(plain, large)


# Trainings


def test_random_batch_is_complete_and_the_same_each_time():
    batch, again = random_batch(3, 5, 64, 7), random_batch(3, 5, 64, 7)
    assert batch.video.shape == (3, 5, 3, 64, 64) and batch.video.dtype == torch.uint8
    assert batch.joint_valid.all() and batch.frame_valid.all() and batch.gesture_valid.all()
    assert set(batch.gesture.tolist()) <= set(range(7))
    assert all(torch.equal(value, vars(again)[name]) for name, value in vars(batch).items())


def test_every_way_to_compute_a_step_can_be_built(params, prepared):
    for chosen in {*ladder(params.runtime).values(), *other_settings(params.runtime).values()}:
        training = build_training(params, prepared, chosen)
        assert training.replica is training.network
        optimised = {id(parameter) for group in training.optimiser.param_groups for parameter in group["params"]}
        assert optimised == {id(parameter) for parameter in training.network.parameters()}


def test_other_settings_change_one_each_and_never_to_what_it_is(params):
    changed = []
    for name, other in other_settings(params.runtime).items():
        differences = {setting: value for setting, value in other.runtime if value != getattr(params.runtime, setting)}
        assert [f"runtime.{setting}: {str(value).lower()}" for setting, value in differences.items()] == [name]
        changed += differences
    assert {"precision", "channels_last"} <= set(changed)
    assert ("threads" in changed) == (usable_cores() > 1)


def test_paper_params_are_the_papers_network(params):
    network = paper_params(params).network
    assert (network.backbone, network.channels, network.stages) == ("resnet50", 16, 4)
    assert paper_params(params).train == params.train


def test_switches_are_afterwards_as_they_were(params):
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)
    with switches_kept():
        prepare_execution(params.runtime.model_copy(update={"threads": 2, "deterministic": False}))
        assert torch.get_num_threads() == 2 and not torch.are_deterministic_algorithms_enabled()
    assert torch.get_num_threads() == 1 and torch.are_deterministic_algorithms_enabled()


# The table


def test_json_has_the_rows_fields_and_reads_back(params, tmp_path):
    rows = FIRST.rows([row("load", [1234.5, 1300.0], "frames/s", Values("step", [50.0, 52.0]))])
    rows += SECOND.rows([not_measured("render", "frames/s", "needs a CUDA device", "on the CPU")])
    written = table(params, rows, [FIRST, SECOND])
    write_table(written, tmp_path / "bench")
    assert sorted(path.name for path in (tmp_path / "bench").iterdir()) == ["bench.json", "bench.md"]
    content = (tmp_path / "bench/bench.json").read_text()
    tree = json.loads(content)
    assert list(tree) == ["machine", "commit", "dirty", "sections", "rows"]
    assert [list(entry) for entry in tree["rows"]] == [[*FIELDS, "section"]] * 2
    assert tree["rows"][1]["value"] is None and tree["rows"][1]["not_measured"] == "needs a CUDA device"
    assert tree["machine"]["threads"] == params.runtime.threads
    assert tree["machine"]["torch"] == torch.__version__
    assert Table.model_validate_json(content) == written
    assert list(Measurement.model_fields) == FIELDS and list(Row.model_fields) == [*FIELDS, "section"]


def test_markdown_has_a_part_for_each_section_and_a_line_for_each_row(params):
    rows = SECOND.rows([not_measured("render", "frames/s", "needs a CUDA device", "on the CPU")])
    rows += FIRST.rows([row("load", [1234.5], "frames/s", Values("step", [50.25])), row("wait", [0.256, 0.256], "s")])
    text = markdown(table(params, rows, [FIRST, SECOND]))
    first, second = text.split("## First\n")[1].split("## Second\n")
    assert first.startswith("\nWhat is first.\n") and second.startswith("\nWhat is second.\n")
    lines = [line for line in first.splitlines() if line.startswith("|")]
    assert lines[2:] == [
        "| load | 1,234 | frames/s | step | 50.2 | 24.6 | 24.6–24.6 | 1 | 0 % |",
        "| wait | 0.256 | s |  |  |  |  | 2 | 0 % |",
    ]
    assert [line for line in second.splitlines() if line.startswith("|")][2:] == [
        "| render | not measured: needs a CUDA device | frames/s | on the CPU |  |  |  | 0 |  |"
    ]
    assert {line.count("|") for line in text.splitlines() if line.startswith("|")} == {10}
    assert "0123abc, with uncommitted changes\n" in text and describe(params.runtime).cpu in text
    assert "Recommended" not in text


def test_a_setting_is_recommended_only_where_its_whole_interval_is_better(params):
    baseline = [10.0, 10.0, 10.0]
    measured = {"faster": [12.0, 13.0, 14.0], "slower": [8.0, 8.0, 8.0], "either": [9.0, 10.5, 11.0]}
    rows = SETTINGS.rows(
        [row(f"runtime.{name}", values, "frames/s", Values("now", baseline)) for name, values in measured.items()]
        + [not_measured("runtime.compile: true", "frames/s", "no C++ compiler", "now")]
    )
    rows += FIRST.rows([row("not a setting", [20.0], "frames/s", Values("now", [10.0]))])
    assert recommendations(rows) == [
        "`runtime.faster`: yes; 1.30 times as fast (1.20–1.40).",
        "`runtime.slower`: no; 0.800 times as fast (0.800–0.800).",
        "`runtime.either`: no difference was measured; 1.05 times as fast (0.900–1.10).",
    ]
    text = markdown(table(params, rows, [SETTINGS, FIRST]))
    assert text.index(f"## {SETTINGS.title}") < text.index("## First") < text.index("## Recommended settings")


# The command line


def test_select_takes_what_has_the_pattern_in_its_name():
    assert select(None) == CASES
    assert [case.name for case in select("PREPARE")] == ["prepare 1920x1080", "prepare 480x270"]
    assert len({case.name for case in CASES}) == len(CASES)
    with pytest.raises(InputError, match="annotations"):
        select("no such thing")


@pytest.mark.skipif(torch.cuda.is_available(), reason="here the rows would be measured")
def test_without_a_gpu_its_rows_stand_there_unmeasured(params, tmp_path):
    workplace = Workplace(tmp_path, params, tmp_path, repeats=1)
    rows = [entry for case in CASES if case.name.startswith("gpu ") for entry in case.measure(workplace)]
    assert {entry.section for entry in rows} == {GPU.title}
    assert {entry.not_measured for entry in rows} == {"needs a CUDA device"}
    assert all(entry.value is None and entry.baseline_name for entry in rows)
    named = " ".join(entry.name for entry in rows)
    assert all(what in named for what in ("tf32", "CUDA graph", "memory", "read", "pictures"))


@pytest.fixture
def project(params, tmp_path, monkeypatch):
    """A project of the `test` profile's settings, with which the current folder is changed to it."""
    (tmp_path / "project/.dvc").mkdir(parents=True)
    (tmp_path / "params.yaml").rename(tmp_path / "project/params.yaml")
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project"


@pytest.mark.parametrize(
    ("only", "rows"),
    [
        ("loading", ["training steps on batches that are read", "reading and augmenting alone"]),
        ("grid C=8 iterations=2", ["C=8, 2 iterations: a step", "C=8, 2 iterations: its memory"]),
    ],
)
def test_a_part_is_measured_and_written(only, rows, project, tmp_path):
    arguments = ["--only", only, "--repeats", "2", "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.exit_code == 0
    written = Table.model_validate_json((tmp_path / "out/bench.json").read_text())
    measured = [entry for entry in written.rows if entry.section != GPU.title]
    assert [entry.name for entry in measured] == rows
    for entry in measured:
        assert entry.value > 0 and entry.baseline_value > 0
        assert 0 < entry.ratio_low <= entry.ratio <= entry.ratio_high
    assert {entry.section for entry in written.rows} == {section.title for section in written.sections}
    assert all(section in SECTIONS for section in written.sections)
    assert done.stdout == (tmp_path / "out/bench.md").read_text()
    assert not (project / "reports").exists()


def test_epochs_evaluation_and_tracking_are_measured_apart_from_the_users_store(project, monkeypatch, tmp_path):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://localhost:1")  # nobody answers there
    arguments = ["--only", "epoch", "--repeats", "1", "--out", str(tmp_path / "out")]
    assert CliRunner().invoke(app, arguments, catch_exceptions=False).exit_code == 0
    rows = {entry.name: entry for entry in Table.model_validate_json((tmp_path / "out/bench.json").read_text()).rows}
    shares = [entry for entry in rows.values() if entry.unit == "%"]
    assert len(shares) == 2 and all(0 < entry.value < 100 and entry.baseline_value == 100 for entry in shares)
    assert any(name.startswith("evaluation of") for name in rows)
    assert any(entry.unit == "s" and "validation" in name for name, entry in rows.items())
    assert {path.name for path in project.iterdir()} == {".dvc", "params.yaml"}


def test_the_module_runs():
    done = subprocess.run([sys.executable, "-m", "gesturepose.bench", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "--only" in done.stdout
