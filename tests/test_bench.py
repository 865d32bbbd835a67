"""The bench: its arithmetic, its files, and one measurement for real."""

import json

import pytest
import torch
from typer.testing import CliRunner

from gesturepose.bench.__main__ import CASES, app, select
from gesturepose.bench.machine import describe
from gesturepose.bench.measure import Row, alternately, milliseconds_each, rates, row, spread
from gesturepose.bench.network import random_batch
from gesturepose.bench.table import Table, markdown, write_table
from gesturepose.errors import InputError


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


def test_sides_run_in_turn_and_the_first_round_is_not_counted():
    clock, rounds = Clock(), []
    sides = {"own": clock.side("own", 50.0, 2.0, 3.0, 4.0), "plain": clock.side("plain", 70.0, 5.0, 6.0, 7.0)}
    seconds = alternately(sides, 3, clock=clock, after_round=lambda: rounds.append(len(clock.calls)))
    assert seconds == {"own": [2.0, 3.0, 4.0], "plain": [5.0, 6.0, 7.0]}
    assert clock.calls == ["own", "plain", "plain", "own", "own", "plain", "plain", "own"]
    assert rounds == [2, 4, 6, 8]


def test_spread_is_the_interquartile_range_over_the_median():
    assert spread([7.0]) == 0.0
    assert spread([10.0, 20.0, 30.0, 40.0, 50.0]) == pytest.approx(20 / 30)
    assert spread([-10.0, -20.0, -30.0, -40.0, -50.0]) == pytest.approx(20 / 30)


def test_ratio_is_above_one_where_a_row_is_faster_whatever_its_unit():
    own, plain = [2.0, 4.0, 3.0], [8.0, 8.0, 12.0]
    in_seconds = row("parse", own, "s", ("plain", plain))
    assert (in_seconds.value, in_seconds.baseline_value, in_seconds.ratio, in_seconds.repeats) == (3.0, 8.0, 4.0, 3)
    as_rate = row("parse", rates(24, own), "frames/s", ("plain", rates(24, plain)))
    assert (as_rate.value, as_rate.baseline_value, as_rate.ratio) == (8.0, 3.0, 4.0)
    each = row("parse", milliseconds_each(500, own), "ms/frame", ("plain", milliseconds_each(500, plain)))
    assert (each.value, each.ratio) == (6.0, 4.0)


def test_ratio_is_of_the_pairs_so_that_a_slow_moment_of_both_cancels():
    assert row("both slow once", [1.0, 9.0, 1.0, 1.0], "s", ("plain", [2.0, 18.0, 2.0, 2.0])).ratio == 2.0
    alone = row("alone", [5.0], "frames/s")
    assert (alone.baseline_name, alone.baseline_value, alone.ratio) == (None, None, None)


def test_json_has_the_rows_fields_and_reads_back(params, tmp_path):
    rows = [row("load", [1234.5, 1300.0], "frames/s", ("step", [50.0, 52.0])), row("wait", [0.25], "s")]
    table = Table(machine=describe(params.runtime), commit="0123abc", dirty=True, rows=rows)
    write_table(table, tmp_path / "bench")
    assert sorted(path.name for path in (tmp_path / "bench").iterdir()) == ["bench.json", "bench.md"]
    content = (tmp_path / "bench/bench.json").read_text()
    tree = json.loads(content)
    assert list(tree) == ["machine", "commit", "dirty", "rows"]
    fields = ["name", "value", "unit", "baseline_name", "baseline_value", "ratio", "repeats", "spread"]
    assert [list(entry) for entry in tree["rows"]] == [fields, fields]
    assert tree["rows"][1]["ratio"] is None
    assert tree["machine"]["threads"] == params.runtime.threads
    assert tree["machine"]["torch"] == torch.__version__
    assert Table.model_validate_json(content) == table
    assert list(Row.model_fields) == fields


def test_markdown_has_one_line_for_each_row_with_every_cell(params):
    rows = [row("load", [1234.5], "frames/s", ("step", [50.25])), row("wait", [0.256], "s")]
    text = markdown(Table(machine=describe(params.runtime), commit="0123abc", dirty=False, rows=rows))
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in lines} == {9}
    assert lines[2] == "| load | 1,234 | frames/s | step | 50.2 | 24.6 | 1 | 0 % |"
    assert lines[3] == "| wait | 0.26 | s |  |  |  | 1 | 0 % |"
    assert "0123abc\n" in text and describe(params.runtime).cpu in text


def test_random_batch_is_complete_and_the_same_each_time():
    batch, again = random_batch(3, 5, 64, 7), random_batch(3, 5, 64, 7)
    assert batch.video.shape == (3, 5, 3, 64, 64) and batch.video.dtype == torch.uint8
    assert batch.joint_valid.all() and batch.frame_valid.all() and batch.gesture_valid.all()
    assert set(batch.gesture.tolist()) <= set(range(7))
    assert all(torch.equal(value, vars(again)[name]) for name, value in vars(batch).items())


def test_select_takes_what_has_the_pattern_in_its_name():
    assert select(None) == CASES
    assert [case.name for case in select("PREPARE")] == ["prepare 1920x1080", "prepare 480x270"]
    assert len({case.name for case in CASES}) == len(CASES)
    with pytest.raises(InputError, match="annotations"):
        select("no such thing")


def test_one_measurement_runs(params, tmp_path, monkeypatch):
    (tmp_path / "project/.dvc").mkdir(parents=True)
    (tmp_path / "params.yaml").rename(tmp_path / "project/params.yaml")
    monkeypatch.chdir(tmp_path / "project")
    arguments = ["--only", "loader", "--repeats", "2"]
    done = CliRunner().invoke(app, [*arguments, "--out", str(tmp_path / "out")], catch_exceptions=False)
    assert done.exit_code == 0
    table = Table.model_validate_json((tmp_path / "out/bench.json").read_text())
    assert len(table.rows) == 1
    measured = table.rows[0]
    assert measured.repeats == 2 and measured.value > 0 and measured.baseline_value > 0 and measured.ratio > 0
    assert done.stdout == (tmp_path / "out/bench.md").read_text()
    assert not (tmp_path / "project/reports").exists()
