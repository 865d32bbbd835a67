"""Laws of the renderer, on small pictures of odd size."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gesturepose.errors import InputError
from gesturepose.geometry import Camera, project
from gesturepose.synthetic import renderer
from gesturepose.synthetic.renderer import BACKGROUND, OBJECT, SKIN, render_video, segment_video

CAMERA = Camera(fx=110.0, fy=113.0, cx=52.3, cy=35.1, width=107, height=71)


def hand(frames: int = 3, *, curl: float = 0.2) -> NDArray[np.float64]:
    """[T, 21, 3] mm: a right hand, its back to the camera, that drifts to the right and turns a little."""
    knuckles = ((24.0, 64.0), (3.0, 70.0), (-15.0, 65.0), (-31.0, 56.0))
    lengths = ((41.0, 24.0, 22.0), (45.0, 28.0, 23.0), (42.0, 26.0, 23.0), (33.0, 19.0, 20.0))
    joints = np.zeros((21, 3))
    joints[1:5] = [(22, 22, 6), (48, 50, 12), (63, 74, 16), (72, 98, 18)]
    for finger in range(4):
        place, angle = np.array([*knuckles[finger], 0.0]), 0.0
        joints[5 + 4 * finger] = place
        for bone in range(3):
            angle += curl
            lean = (0.12, 0.02, -0.08, -0.2)[finger]
            place = place + lengths[finger][bone] * np.array(
                [np.sin(lean) * np.cos(angle), np.cos(lean) * np.cos(angle), np.sin(angle)]
            )
            joints[6 + 4 * finger + bone] = place
    video = []
    for frame in range(frames):
        turn = 0.1 * frame
        rotation = np.array([[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]])
        # palm's axes (thumb's side, forward, out of the palm) to camera axes: left, up, away
        video.append(joints * (-1, -1, 1) @ rotation.T + (4.0 * frame, 62.0, 340.0))
    return np.stack(video)


def seed_that(holds: bool) -> int:
    """The first seed whose video does, or does not, hold an object."""
    for seed in range(40):
        if (segment_video(hand(1), CAMERA, seed=seed, scenario=0) == OBJECT).any() == holds:
            return seed
    raise AssertionError("no such seed")


@pytest.mark.parametrize("scenario", range(renderer.SCENARIOS))
def test_same_arguments_give_the_same_pixels(scenario: int) -> None:
    first = render_video(hand(), CAMERA, seed=5, scenario=scenario)
    assert first.shape == (3, 71, 107, 3) and first.dtype == np.uint8
    assert np.array_equal(first, render_video(hand(), CAMERA, seed=5, scenario=scenario))
    assert first.std() > 10


@pytest.mark.parametrize("holds", [True, False])
def test_batches_do_not_show(holds: bool) -> None:
    joints, seed = hand(5), seed_that(holds)
    single = render_video(joints, CAMERA, seed=seed, scenario=1, frames_per_batch=1)
    assert np.array_equal(single, render_video(joints, CAMERA, seed=seed, scenario=1, frames_per_batch=3))
    assert np.array_equal(single, render_video(joints, CAMERA, seed=seed, scenario=1, frames_per_batch=5))


def test_seeds_and_scenarios_differ() -> None:
    joints = hand(1)
    videos = [
        render_video(joints, CAMERA, seed=seed, scenario=scenario).astype(int) for seed in (1, 2) for scenario in (0, 1)
    ]
    for one in range(4):
        for other in range(one):
            assert np.abs(videos[one] - videos[other]).mean() > 3


@pytest.mark.parametrize("curl", [0.05, 0.5, 1.2])
def test_projected_joints_lie_on_the_hand(curl: float) -> None:
    joints = hand(2, curl=curl)
    labels = segment_video(joints, CAMERA, seed=seed_that(False), scenario=0)
    uv = np.rint(project(joints, CAMERA.intrinsics)).astype(int)
    inside = (uv >= 0).all(-1) & (uv[..., 0] < CAMERA.width) & (uv[..., 1] < CAMERA.height)
    assert inside.sum() > 30
    frame = np.broadcast_to(np.arange(2)[:, None], inside.shape)
    assert (labels[frame[inside], uv[inside][:, 1], uv[inside][:, 0]] == SKIN).all()


def test_open_fingers_are_apart() -> None:
    joints = hand(1, curl=0.05)
    labels = segment_video(joints, CAMERA, seed=seed_that(False), scenario=0)[0]
    uv = project(joints, CAMERA.intrinsics)[0]
    for left, right in ((8, 12), (12, 16), (16, 20)):  # between neighbouring fingertips there is background
        line = np.rint(np.linspace(uv[left], uv[right], 30)).astype(int)
        assert (labels[line[:, 1], line[:, 0]] == BACKGROUND).any()


def test_object_occludes_the_palm_seen_from_its_side() -> None:
    from_the_palm = (hand(1) - (0, 0, 340.0)) * (-1, 1, -1) + (0, 0, 340.0)  # half a turn about the vertical
    seed = seed_that(True)
    labels = segment_video(from_the_palm, CAMERA, seed=seed, scenario=0)[0]
    knuckle = np.rint(project(from_the_palm, CAMERA.intrinsics)[0, 9]).astype(int)
    around = labels[knuckle[1] - 3 : knuckle[1] + 4, knuckle[0] - 3 : knuckle[0] + 4]
    assert (labels == OBJECT).sum() > 40
    assert (around == OBJECT).any()


@pytest.mark.parametrize("ruin", ["aside", "behind", "not a number"])
def test_an_invisible_hand_leaves_the_background(ruin: str) -> None:
    joints = hand(3)
    joints[1] = {
        "aside": joints[1] + (5e4, 0, 0),
        "behind": joints[1] - (0, 0, 5e3),
        "not a number": joints[1] * np.nan,
    }[ruin]
    seed = seed_that(False)
    assert (segment_video(joints, CAMERA, seed=seed, scenario=2)[1] == BACKGROUND).all()
    empty = np.full_like(joints, np.nan)
    pictures = render_video(joints, CAMERA, seed=seed, scenario=2)
    background = render_video(empty, CAMERA, seed=seed, scenario=2)
    assert np.array_equal(pictures[1], background[1])
    assert not np.array_equal(pictures[0], background[0])


def test_a_hand_partly_outside_or_partly_unknown_is_drawn_in_part() -> None:
    joints = hand(3)
    joints[0] += (70.0, 0, 0)
    joints[1, 8] = np.nan  # a lost fingertip
    joints[2, :, 2] -= 335.0  # the camera within the hand
    labels = segment_video(joints, CAMERA, seed=seed_that(False), scenario=0)
    share = (labels != BACKGROUND).mean((1, 2))
    assert 0 < share[0] < 1 and 0 < share[1] < 1
    assert render_video(joints, CAMERA, seed=1, scenario=0).shape == (3, 71, 107, 3)


def test_no_frames_give_no_pictures() -> None:
    assert render_video(np.zeros((0, 21, 3)), CAMERA, seed=1, scenario=0).shape == (0, 71, 107, 3)


def test_the_room_holds_still_but_for_the_cameras_drift() -> None:
    still = np.repeat(hand(1), 4, 0) * np.nan
    video = render_video(still, CAMERA, seed=2, scenario=0).astype(int)
    steps = np.abs(np.diff(video, axis=0)).mean((1, 2, 3))
    assert (steps > 0).all() and (steps < 15).all()


@pytest.mark.parametrize(
    ("joints", "scenario"),
    [
        (np.zeros((4, 20, 3)), 0),
        (np.zeros((21, 3)), 0),
        (np.zeros((4, 21, 3), dtype=int), 0),
        (hand(1), 3),
        (hand(1), -1),
    ],
)
def test_bad_arguments_are_refused(joints: NDArray[np.floating], scenario: int) -> None:
    with pytest.raises(InputError):
        render_video(joints, CAMERA, seed=0, scenario=scenario)
