"""Tests between rows of a table, against cases worked out by hand and against the definition written as a loop."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from scipy.stats import ttest_rel

from gesturepose.metrics import draw_videos
from gesturepose.significance import RatioCounts, area_weights, holm, mcnemar, paired_bootstrap

SETTINGS = {"resamples": 2000, "confidence": 0.95}


def booleans(text: str) -> np.ndarray:
    return np.array([letter == "1" for letter in text])


def accuracy(correct: np.ndarray) -> RatioCounts:
    """[S, V] → one point with denominators of 1."""
    return RatioCounts(correct[None].astype(float), np.ones((1, *correct.shape)))


def random_rows(rng: np.random.Generator, points=2, seeds=3, videos=5) -> tuple[RatioCounts, RatioCounts]:
    joints = rng.integers(7, 40, size=(points, seeds, videos))
    return tuple(RatioCounts(rng.binomial(joints, share).astype(float), joints.astype(float)) for share in (0.7, 0.5))


# McNemar


def test_mcnemar_counts_the_videos_on_which_they_disagree() -> None:
    test = mcnemar(booleans("1111110010"), booleans("0000010110"))
    # the first alone is right on five, the second alone on one: P(at most 1 of 6) = 7/64, twice it
    assert (test.videos, test.only_first, test.only_second) == (10, 5, 1)
    assert test.p == pytest.approx(2 * 7 / 64)


def test_mcnemar_is_symmetric_and_blind_to_what_both_have_right_or_wrong() -> None:
    first, second = booleans("1101100"), booleans("0011000")
    there, back = mcnemar(first, second), mcnemar(second, first)
    assert (there.only_first, there.only_second) == (back.only_second, back.only_first) == (3, 1)
    assert there.p == pytest.approx(back.p) == pytest.approx(2 * 5 / 16)
    more = mcnemar(np.append(first, [True] * 50), np.append(second, [True] * 50))
    assert more.p == pytest.approx(there.p) and more.videos == 57


def test_mcnemar_without_a_discordant_video_finds_nothing() -> None:
    same = booleans("10110")
    assert mcnemar(same, same).p == 1.0


def test_mcnemar_refuses_other_shapes_and_numbers() -> None:
    with pytest.raises(ValueError, match=r"\(3,\) and \(5,\)"):
        mcnemar(booleans("101"), booleans("10110"))
    with pytest.raises(ValueError, match="truth values"):
        mcnemar(np.array([0.5, 1.0]), booleans("10"))


# The paired bootstrap


def test_the_difference_is_of_means_over_seeds_of_ratios_of_sums() -> None:
    joints = np.array([[[4.0, 1.0, 5.0], [4.0, 1.0, 5.0]]])
    row = RatioCounts(np.array([[[4.0, 0.0, 4.0], [2.0, 1.0, 3.0]]]), joints)  # 8/10 and 6/10
    reference = RatioCounts(np.array([[[1.0, 1.0, 1.0], [0.0, 0.0, 4.0]]]), joints)  # 3/10 and 4/10
    found = paired_bootstrap(row, reference, **SETTINGS)
    assert found.value == pytest.approx(0.7 - 0.35)
    assert (found.seeds, found.videos, found.resamples) == (2, 3, 2000)
    assert found.low <= found.value <= found.high


def test_resamples_equal_the_rows_laid_out_again() -> None:
    row, reference = random_rows(np.random.default_rng(0))
    weights = np.array([0.25, 0.75])
    drawn_videos, drawn_seeds = draw_videos(5, 101, seed=7), draw_videos(3, 101, seed=8)
    differences = []
    for videos, seeds in zip(drawn_videos, drawn_seeds, strict=True):
        statistic = []
        for counts in (row, reference):
            by_point = []
            for point in range(2):
                ratios = [
                    sum(counts.numerators[point, seed, video] for video in videos)
                    / sum(counts.denominators[point, seed, video] for video in videos)
                    for seed in seeds
                ]
                by_point.append(sum(ratios) / 3)
            statistic.append(weights @ by_point)
        differences.append(statistic[0] - statistic[1])
    found = paired_bootstrap(row, reference, weights=weights, resamples=101, confidence=0.9, seed=7)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(differences, [5, 95])))
    below, above = np.sum(np.array(differences) <= 0), np.sum(np.array(differences) >= 0)
    by_seed = [
        weights @ [counts.numerators[p, s].sum() / counts.denominators[p, s].sum() for p in range(2)]
        for counts in (row, reference)
        for s in range(3)
    ]
    over_seeds = ttest_rel(by_seed[:3], by_seed[3:]).pvalue
    assert found.p == pytest.approx(max(min(1.0, 2 * (1 + min(below, above)) / 102), over_seeds))


def test_a_row_against_itself_is_exactly_no_difference() -> None:
    row, _ = random_rows(np.random.default_rng(1))
    found = paired_bootstrap(row, row, weights=[0.5, 0.5], **SETTINGS)
    assert (found.value, found.low, found.high, found.p) == (0.0, 0.0, 0.0, 1.0)


def test_swapping_the_rows_turns_the_sign_and_keeps_p() -> None:
    row, reference = random_rows(np.random.default_rng(2), videos=11)
    there = paired_bootstrap(row, reference, weights=[0.5, 0.5], **SETTINGS)
    back = paired_bootstrap(reference, row, weights=[0.5, 0.5], **SETTINGS)
    assert back.value == pytest.approx(-there.value) and back.p == there.p
    assert (back.low, back.high) == pytest.approx((-there.high, -there.low))


def test_videos_are_paired_so_that_their_difficulty_cancels() -> None:
    """One hit more of ten in every video: no resample changes the difference, though the rows themselves spread."""
    hard = np.arange(0.0, 9.0).reshape(1, 1, 9)
    row, reference = RatioCounts(hard + 1, np.full((1, 1, 9), 10.0)), RatioCounts(hard, np.full((1, 1, 9), 10.0))
    found = paired_bootstrap(row, reference, **SETTINGS)
    assert (found.value, found.low, found.high) == pytest.approx((0.1, 0.1, 0.1))
    assert found.p == pytest.approx(2 / 2001)


def test_seeds_are_paired_and_drawn() -> None:
    """Videos alike, seeds not: the interval of three seeds is their lowest and highest difference, and no wider."""
    by_seed = np.array([3.0, 5.0, 8.0])[None, :, None].repeat(7, axis=2)
    tens = np.full((1, 3, 7), 10.0)
    found = paired_bootstrap(RatioCounts(by_seed, tens), RatioCounts(np.full((1, 3, 7), 2.0), tens), **SETTINGS)
    assert found.value == pytest.approx((0.1 + 0.3 + 0.6) / 3)
    assert (found.low, found.high) == pytest.approx((0.1, 0.6))
    # t = 1/3 / (0.25166 / √3) = 2.294 with two degrees of freedom: p = 1 − t / √(t² + 2)
    assert found.p == pytest.approx(1 - 2.29416 / np.sqrt(2.29416**2 + 2), abs=1e-5)
    shifted = paired_bootstrap(RatioCounts(by_seed + 1, tens), RatioCounts(by_seed, tens), **SETTINGS)
    assert (shifted.low, shifted.high) == pytest.approx((0.1, 0.1))


def test_three_seeds_hold_the_truth_three_times_of_four() -> None:
    """The module's warning, drawn: normal differences of seeds, no spread over videos."""
    rng = np.random.default_rng(3)
    tens, covered = np.full((1, 3, 5), 10.0), 0
    for _ in range(400):
        seeds = rng.normal(size=(1, 3, 1)).repeat(5, axis=2)
        found = paired_bootstrap(RatioCounts(seeds, tens), RatioCounts(0 * seeds, tens), resamples=500, confidence=0.95)
        covered += found.low <= 0.0 <= found.high
    assert 0.68 < covered / 400 < 0.82


def test_other_trainings_without_a_difference_are_rarely_called_one() -> None:
    """The same draws: the bootstrap alone would call one in four of them a finding."""
    rng = np.random.default_rng(3)
    tens, small = np.full((1, 3, 5), 10.0), 0
    for _ in range(400):
        seeds = rng.normal(size=(1, 3, 1)).repeat(5, axis=2)
        found = paired_bootstrap(RatioCounts(seeds, tens), RatioCounts(0 * seeds, tens), resamples=500, confidence=0.95)
        small += found.p < 0.05
    assert 0.02 < small / 400 < 0.08


def test_one_seed_resamples_videos_alone() -> None:
    rng = np.random.default_rng(4)
    right, wrong = (rng.random((1, 13)) < share for share in (0.8, 0.5))
    found = paired_bootstrap(accuracy(right), accuracy(wrong), resamples=500, confidence=0.95, seed=5)
    drawn = draw_videos(13, 500, seed=5)
    differences = right[0][drawn].mean(axis=1) - wrong[0][drawn].mean(axis=1)
    assert (found.low, found.high) == pytest.approx(tuple(np.percentile(differences, [2.5, 97.5])))
    assert found.seeds == 1


def test_the_same_seed_gives_the_same_interval_and_another_one_another() -> None:
    row, reference = random_rows(np.random.default_rng(5), points=1, videos=11)
    draws = [paired_bootstrap(row, reference, **SETTINGS, seed=seed) for seed in (0, 0, 2)]
    assert draws[0] == draws[1] and draws[0].low != draws[2].low


def test_the_p_value_of_no_difference_is_rarely_small() -> None:
    rng = np.random.default_rng(6)
    small = 0
    for _ in range(300):
        videos = rng.random((2, 1, 60)) < 0.7
        found = paired_bootstrap(accuracy(videos[0]), accuracy(videos[1]), resamples=400, confidence=0.95)
        small += found.p < 0.05
    assert 0.01 < small / 300 < 0.10


def test_a_resample_that_counts_nothing_is_left_out() -> None:
    joints = np.array([[[0.0, 3.0, 0.0]]])
    found = paired_bootstrap(RatioCounts(joints, joints), RatioCounts(joints / 3, joints), **SETTINGS)
    assert (found.value, found.low, found.high) == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    assert 2000 * 0.6 < found.resamples < 2000 * 0.8  # 1 − (2/3)³ of them hold the one video that counts
    with pytest.raises(ValueError, match="anything to count"):
        paired_bootstrap(RatioCounts(0 * joints, 0 * joints), RatioCounts(joints, joints), **SETTINGS)


def test_shapes_that_do_not_fit_are_refused() -> None:
    row, _ = random_rows(np.random.default_rng(7))
    other, _ = random_rows(np.random.default_rng(7), videos=7)
    with pytest.raises(ValueError, match=r"\(2, 3, 5\), \(2, 3, 7\), \(2,\)"):
        paired_bootstrap(row, other, weights=[0.5, 0.5], **SETTINGS)
    with pytest.raises(ValueError, match=r"\(1,\)"):
        paired_bootstrap(row, row, **SETTINGS)
    with pytest.raises(ValueError, match=r"\[P, S, V\] twice"):
        RatioCounts(np.ones((3, 5)), np.ones((3, 5)))


# Areas


def test_area_weights_are_the_trapezoid_rule_over_the_range() -> None:
    positions, values = [0.15, 0.25, 0.4, 1.0], np.array([0.2, 0.5, 0.4, 0.9])
    assert area_weights(positions) @ values == pytest.approx(np.trapezoid(values, positions) / 0.85)
    # (0.1·0.5, 0.25·0.5, 0.15·0.5 of 0.25 for three)
    np.testing.assert_allclose(area_weights([0.15, 0.25, 0.4]), [0.2, 0.5, 0.3])


def test_one_point_is_its_own_area_and_positions_rise() -> None:
    np.testing.assert_array_equal(area_weights([0.3]), [1.0])
    for wrong in ([], [0.2, 0.2], [0.4, 0.1]):
        with pytest.raises(ValueError, match="rising"):
            area_weights(wrong)


def test_the_area_of_a_difference_is_the_difference_of_areas() -> None:
    row, reference = random_rows(np.random.default_rng(8), points=3)
    positions = [0.15, 0.25, 0.4]
    curves = [(counts.numerators.sum(2) / counts.denominators.sum(2)).mean(axis=1) for counts in (row, reference)]
    found = paired_bootstrap(row, reference, weights=area_weights(positions), **SETTINGS)
    assert found.value == pytest.approx(np.trapezoid(curves[0] - curves[1], positions) / 0.25)


# Holm


def test_holm_multiplies_from_the_smallest_up() -> None:
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])  # 0.01·3; 0.03·2; 0.04·1, raised to 0.06
    assert holm([0.5, 0.9, 0.6, 0.001]) == pytest.approx([1.0, 1.0, 1.0, 0.004])


def test_holm_keeps_one_or_no_value_and_handles_ties() -> None:
    assert holm([]) == [] and holm([0.2]) == pytest.approx([0.2])
    assert holm([0.02, 0.02]) == pytest.approx([0.04, 0.04])
    with pytest.raises(ValueError, match="p-values"):
        holm([0.2, float("nan")])


def test_holm_rejects_as_the_step_down_procedure_does() -> None:
    """p(k) against level / (n − k + 1), from the smallest, until the first that fails."""
    for p in product([0.001, 0.012, 0.02, 0.3], repeat=4):
        rejected = set()
        for step, index in enumerate(np.argsort(p, kind="stable")):
            if p[index] > 0.05 / (4 - step):
                break
            rejected.add(int(index))
        assert {index for index, value in enumerate(holm(p)) if value <= 0.05} == rejected
