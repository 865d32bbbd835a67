"""The numbers of a report, against cases worked out by hand and against the definition written as a loop."""

from __future__ import annotations

import numpy as np
import pytest

from gesturepose import metrics

THRESHOLDS = [0.0, 10.0, 30.0]
# Two videos, three frames, two joints. Video 0 has the errors 5, 10, 40 (one joint is hidden), video 1 has 0 and 30.
ERRORS = np.array([[5.0, 10.0], [0.0, 30.0], [np.nan, 40.0]])
VALID = np.array([[True, True], [True, True], [False, True]])
VIDEO_OF_FRAME = np.array([0, 1, 0])


def example() -> metrics.PoseSums:
    return metrics.pose_sums(ERRORS, VALID, THRESHOLDS, VIDEO_OF_FRAME, 2)


def random_errors(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    errors = rng.gamma(2.0, 12.0, size=(83, 5))
    valid = rng.random(errors.shape) < 0.8
    errors[~valid] = np.nan
    return errors, valid, rng.permutation(np.concatenate([np.arange(7), rng.integers(7, size=76)]))


def test_joint_errors_are_distances_and_keep_nan() -> None:
    predicted = np.array([[[0.0, 0.0, 0.0], [1.0, 2.0, 3.0], [7.0, 7.0, 7.0]]], dtype=np.float32)
    true = np.array([[[2.0, 3.0, 6.0], [1.0, 2.0, 3.0], [np.nan, 7.0, 7.0]]], dtype=np.float32)
    np.testing.assert_array_equal(metrics.joint_errors(predicted, true), [[7.0, 0.0, np.nan]])
    np.testing.assert_array_equal(
        metrics.joint_errors(predicted[..., :2], true[..., :2])[:, :2], [[np.sqrt(13.0), 0.0]]
    )


def test_root_alignment_forgets_where_the_hand_is_and_nothing_else() -> None:
    rng = np.random.default_rng(0)
    joints = rng.normal(size=(3, 5, 3))
    moved = joints + rng.normal(size=(3, 1, 3))
    np.testing.assert_allclose(metrics.root_aligned(moved), metrics.root_aligned(joints), atol=1e-12)
    np.testing.assert_array_equal(metrics.root_aligned(joints)[:, 0], np.zeros((3, 3)))
    np.testing.assert_allclose(np.diff(metrics.root_aligned(joints), axis=1), np.diff(joints, axis=1), atol=1e-12)


def test_pck_auc_and_mean_error_of_a_case_worked_out_by_hand() -> None:
    total = metrics.over_all_videos(example())
    # 5, 10, 0, 30, 40: one of five is at most 0, three at most 10 (10 itself counts), four at most 30.
    np.testing.assert_allclose(metrics.pck_curve(total), [0.2, 0.6, 0.8])
    assert metrics.pck(total, 10.0) == pytest.approx(0.6)
    assert metrics.mean_error_mm(total) == pytest.approx(17.0)
    # (0.2 + 0.6) / 2 · 10 + (0.6 + 0.8) / 2 · 20 = 18, of 30
    assert metrics.area_under_curve(total) == pytest.approx(0.6)


def test_each_video_has_its_own_numbers() -> None:
    np.testing.assert_allclose(metrics.pck_curve(example()), [[0.0, 2 / 3, 2 / 3], [0.5, 0.5, 1.0]])
    np.testing.assert_allclose(metrics.mean_error_mm(example()), [55 / 3, 15.0])
    np.testing.assert_allclose(metrics.area_under_curve(example()), [50 / 90, (5 + 15) / 30])


def test_the_area_is_one_for_a_perfect_and_one_half_for_a_rising_curve() -> None:
    thresholds = np.linspace(0.0, 50.0, 21)
    none = np.zeros(1, dtype=np.int64)
    perfect = metrics.pose_sums(np.zeros((1, 3)), np.full((1, 3), True), thresholds, none, 1)
    assert metrics.area_under_curve(perfect) == [1.0]
    # errors at the middles of the intervals: the curve climbs by 1/20 at each threshold
    rising = metrics.pose_sums(thresholds[None, 1:] - 1.25, np.full((1, 20), True), thresholds, none, 1)
    np.testing.assert_allclose(metrics.area_under_curve(rising), [0.5])


def test_masked_joints_do_not_matter_whatever_they_hold() -> None:
    for rubbish in (np.nan, np.inf, -1.0, 0.0):
        errors = np.where(VALID, ERRORS, rubbish)
        sums = metrics.pose_sums(errors, VALID, THRESHOLDS, VIDEO_OF_FRAME, 2)
        np.testing.assert_array_equal(sums.hits, example().hits)
        np.testing.assert_array_equal(sums.joints, [3, 2])
        np.testing.assert_array_equal(sums.error_mm, [55.0, 30.0])


def test_a_video_without_a_counted_joint_is_nan_and_the_whole_is_not_touched() -> None:
    sums = metrics.pose_sums(ERRORS, VALID, THRESHOLDS, VIDEO_OF_FRAME, 3)
    assert np.isnan(metrics.mean_error_mm(sums)[2]) and np.isnan(metrics.pck_curve(sums)[2]).all()
    assert metrics.mean_error_mm(metrics.over_all_videos(sums)) == pytest.approx(17.0)


def test_the_sums_equal_the_definition_written_as_a_loop() -> None:
    errors, valid, video_of_frame = random_errors(np.random.default_rng(1))
    thresholds = np.linspace(0.0, 80.0, 33)
    sums = metrics.pose_sums(errors, valid, thresholds, video_of_frame, 7)
    for video in range(7):
        counted = errors[video_of_frame == video][valid[video_of_frame == video]]
        np.testing.assert_allclose(metrics.pck_curve(sums)[video], [(counted <= t).mean() for t in thresholds])
        assert metrics.mean_error_mm(sums)[video] == pytest.approx(counted.mean())


def test_pck_at_a_threshold_that_was_not_taken_is_refused() -> None:
    with pytest.raises(ValueError, match=r"11\.0 mm is not among"):
        metrics.pck(example(), 11.0)


def test_sums_by_video_take_any_order_and_any_trailing_axes() -> None:
    values = np.arange(18).reshape(3, 2, 3)
    sums = metrics.sum_by_video(values, np.array([2, 0, 2]), 4)
    np.testing.assert_array_equal(sums, np.stack([values[1], 0 * values[0], values[0] + values[2], 0 * values[0]]))


def test_confusion_and_accuracies_leave_out_the_class_without_videos() -> None:
    gesture = np.array([0, 0, 0, 1, 3])
    predicted = np.array([0, 2, 0, 1, 1])
    matrix = metrics.confusion_matrix(gesture, predicted, 4)
    np.testing.assert_array_equal(matrix, [[2, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]])
    videos, correct = matrix.sum(axis=1), matrix.diagonal()
    np.testing.assert_allclose(metrics.class_accuracy(videos, correct), [2 / 3, 1.0, np.nan, 0.0])
    assert metrics.macro_accuracy(videos, correct) == pytest.approx((2 / 3 + 1.0 + 0.0) / 3)


def test_draws_are_counted_and_repeat_with_their_seed() -> None:
    drawn = metrics.draw_videos(5, 11, seed=3)
    np.testing.assert_array_equal(drawn, metrics.draw_videos(5, 11, seed=3))
    assert (drawn != metrics.draw_videos(5, 11, seed=4)).any()
    counts = metrics.count_draws(drawn)
    np.testing.assert_array_equal(counts, [[(row == video).sum() for video in range(5)] for row in drawn])


def test_resampled_sums_equal_the_scores_of_the_videos_laid_out_again() -> None:
    errors, valid, video_of_frame = random_errors(np.random.default_rng(2))
    thresholds = np.linspace(0.0, 50.0, 21)
    drawn = metrics.draw_videos(7, 13, seed=5)
    fast = metrics.over_resamples(
        metrics.pose_sums(errors, valid, thresholds, video_of_frame, 7), metrics.count_draws(drawn)
    )
    for resample, videos in enumerate(drawn):
        frames = np.concatenate([np.flatnonzero(video_of_frame == video) for video in videos])
        counted = errors[frames][valid[frames]]
        curve = [(counted <= threshold).mean() for threshold in thresholds]
        np.testing.assert_allclose(metrics.pck_curve(fast)[resample], curve)
        assert metrics.area_under_curve(fast)[resample] == pytest.approx(np.trapezoid(curve, thresholds) / 50.0)
        assert metrics.mean_error_mm(fast)[resample] == pytest.approx(counted.mean())


def test_the_interval_has_no_width_for_videos_that_are_alike() -> None:
    sums = metrics.pose_sums(np.full((9, 3), 12.5), np.full((9, 3), True), [0.0, 12.5, 20.0], np.arange(9) // 3, 3)
    resampled = metrics.over_resamples(sums, metrics.count_draws(metrics.draw_videos(3, 101, seed=0)))
    assert metrics.percentile_interval(metrics.mean_error_mm(resampled), 0.95) == (12.5, 12.5)
    assert metrics.percentile_interval(metrics.pck(resampled, 12.5), 0.95) == (1.0, 1.0)


def test_the_interval_leaves_its_share_on_either_side_and_skips_empty_resamples() -> None:
    values = np.random.default_rng(0).permutation(np.arange(101.0))
    assert metrics.percentile_interval(values, 0.9) == pytest.approx((5.0, 95.0))
    assert metrics.percentile_interval(np.append(values, [np.nan, np.nan]), 0.9) == pytest.approx((5.0, 95.0))


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(6)
    counts = metrics.count_draws(metrics.draw_videos(60, 400, seed=0))
    covered = 0
    for _ in range(200):
        correct = (rng.random(60) < 0.7).astype(np.float64)
        low, high = metrics.percentile_interval(metrics.ratio(counts @ correct, np.full(400, 60.0)), 0.95)
        covered += low <= 0.7 <= high
    assert 0.88 <= covered / 200 <= 0.99
