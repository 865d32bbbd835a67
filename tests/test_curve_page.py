"""The curves' page: what it says of gains, tests, data and preliminary results; broken tables are refused."""

import json

import pandas as pd
import pytest

from gesturepose.curve_page import read_curves, render_curve_page
from gesturepose.errors import InputError
from gesturepose.label_curves import curve_table, gains
from gesturepose.wording import NOT_SIGNIFICANT, mean_and_spread, p_value, points
from test_weak import hand_made


@pytest.fixture
def written(params, tmp_path):
    """Tables of two ratios and two seeds, with a teacher: at 25 % weak is 30 points better, at 50 % equal."""
    settings = params.weak.model_copy(
        update={"ratios": (0.25, 0.5), "seeds": (0, 1), "bootstrap": 200, "further_pose_methods": ("teacher",)}
    )
    per_video, cells, means = hand_made(settings)
    weak_pose = per_video[(per_video["direction"] == "pose") & (per_video["method"] == "weak")]
    worse = weak_pose.assign(method="teacher", hits_30=weak_pose["hits_30"] - 5)
    per_video = pd.concat([per_video, worse])
    taught = cells[(cells["direction"] == "pose") & (cells["method"] == "weak")].assign(method="teacher")
    cells = pd.concat([cells, taught]).assign(weights="ab" * 32)
    data = {"name": "synthetic", "protocol": "official", "split": "test", "videos": 3, "fingerprint": "cd" * 32}
    cells.to_csv(tmp_path / "cells.csv", index=False)
    curve_table(per_video, cells).to_csv(tmp_path / "curves.csv", index=False)
    found = {"data": data, "seeds": 2, **gains(per_video, means, settings)}
    (tmp_path / "metrics.json").write_text(json.dumps(found))
    return params.model_copy(update={"weak": settings}), tmp_path


def test_the_page_says_what_the_tables_say(written):
    params, folder = written
    text = render_curve_page(read_curves(params, folder)).replace("\u00a0", " ")
    for said in (
        "Synthetic data", "Preliminary: fewer than 3 seeds (2)", "cd" * 32, "5 videos", "10 videos",
        "<strong>70.0 ± 0.0 %</strong>", "<strong>40.0 ± 0.0 %</strong>", "<strong>20.0 ± 0.0 %</strong>",
        "+30.0 points (+30.0 to +30.0)", "−20.0 points (−20.0 to −20.0)", "0.0 points (0.0 to 0.0)",
        "alone right on 2, the baseline on 0 of 3 videos", "dvc status pipelines/weak/dvc.yaml", "25.0 ± 0.0 mm",
        "This page fetches nothing",
    ):  # fmt: skip
        assert said in text, said
    equal = text.index("0.0 points (0.0 to 0.0)")
    assert NOT_SIGNIFICANT in text[equal : equal + 120]
    assert verdicts(text) == ["preliminary, too few seeds for a finding"] * 2
    assert "http" not in text.replace("http-equiv", "")
    assert text == render_curve_page(read_curves(params, folder)).replace("\u00a0", " ")


def verdicts(text):
    """At 25 % of the weak method and of the teacher."""
    found = [text[text.index(gain) :].partition("<small>p = ")[2].partition("<")[0] for gain in ("+30.0 p", "−20.0 p")]
    # Every one of 200 resamples agrees, 2 / 201; the smallest two of a family of four: times 4.
    assert [p for p, _, _ in (text.partition(": ") for text in found)] == ["0.040"] * 2
    return [text.partition(": ")[2] for text in found]


def test_three_seeds_make_a_finding(written):
    params, folder = written
    three = params.model_copy(update={"weak": params.weak.model_copy(update={"seeds": (0, 1, 2)})})
    text = render_curve_page(read_curves(three, folder)).replace("\u00a0", " ")
    assert verdicts(text) == ["better", "worse"] and "Preliminary" not in text


def test_broken_and_missing_tables_are_refused(written):
    params, folder = written
    (folder / "curves.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match=r"broken tables(.|\n)*collect stage"):
        read_curves(params, folder)
    (folder / "curves.csv").unlink()
    with pytest.raises(InputError, match=r"curves\.csv(.|\n)*collect stage"):
        read_curves(params, folder)


def test_words():
    assert [points(share) for share in (0.0213, -0.004, 0.0004, -0.0004)] == ["+2.1", "−0.4", "0.0", "0.0"]
    assert p_value(0.0004) == "p\u00a0<\u00a00.001" and p_value(0.0456) == "p\u00a0=\u00a00.046"
    # Mean 0.61; the deviations are ∓0.01, so the standard deviation of two is √2 · 0.01.
    assert mean_and_spread([0.60, 0.62]) == "61.0 ± 1.4\u00a0%" and mean_and_spread([0.5]) == "50.0\u00a0%"
