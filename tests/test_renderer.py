"""Laws of the renderer, on small pictures of odd size."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_map_only

from gesturepose.errors import InputError
from gesturepose.geometry import Camera, project
from gesturepose.synthetic import renderer
from gesturepose.synthetic.batching import CPU, CUDA, Batching
from gesturepose.synthetic.renderer import BACKGROUND, OBJECT, SKIN, render_batches, render_video, segment_video

CAMERA = Camera(fx=110.0, fy=113.0, cx=52.3, cy=35.1, width=107, height=71)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """As in the writer's processes; many small operations only suffer from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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


def speeding_hand(frames: int) -> NDArray[np.float64]:
    """A hand that is nearly at rest first and smears over several pixels in the end."""
    joints = np.repeat(hand(1), frames, 0)
    joints[:, :, 0] += (0.16 * np.arange(frames) ** 3)[:, None] % 90.0
    return joints


@pytest.mark.parametrize("holds", [True, False])
def test_batches_of_frames_do_not_show(holds: bool) -> None:
    """Not even in the last bit, nor in the fineness of the motion blur, which follows the motion."""
    joints, seed = speeding_hand(14), seed_that(holds)
    small = list(render_batches(joints, CAMERA, seed=seed, scenario=1))
    assert [len(batch) for batch in small] == [4, 4, 4, 2]
    for together in (8, 16):
        batching = replace(CPU, pixels=together * 71 * 107)
        large = list(render_batches(joints, CAMERA, seed=seed, scenario=1, batching=batching))
        assert len(large) == -(-14 // together)
        assert np.array_equal(np.concatenate(small), np.concatenate(large))


@pytest.mark.parametrize("holds", [True, False])
@pytest.mark.parametrize("batching", [CUDA, Batching(pixels=0, cones=100, points=0)])
def test_batches_of_tiles_and_points_do_not_show(holds: bool, batching: Batching) -> None:
    joints, seed = speeding_hand(9), seed_that(holds)
    expected = render_video(joints, CAMERA, seed=seed, scenario=1)
    assert np.array_equal(expected, render_video(joints, CAMERA, seed=seed, scenario=1, batching=batching))


class ElsewhereTensor(torch.Tensor):
    """A tensor of another device, as far as PyTorch can see; its numbers lie in a CPU tensor."""

    numbers: torch.Tensor

    @staticmethod
    def __new__(cls, numbers: torch.Tensor) -> ElsewhereTensor:
        strides, offset = numbers.stride(), numbers.storage_offset()
        tensor = torch.Tensor._make_wrapper_subclass(
            cls,
            numbers.shape,
            strides=strides,
            storage_offset=offset,
            dtype=numbers.dtype,
            device=torch.device(ELSEWHERE),
        )
        tensor.numbers = numbers
        return tensor

    @classmethod
    def __torch_dispatch__(cls, operation: Any, *_: Any) -> None:
        raise AssertionError(f"{operation} outside of Elsewhere")


ELSEWHERE = "meta"  # the one kind of device that PyTorch neither looks for nor computes on


class CopiesNumbers(TorchFunctionMode):
    """Numbers go between Python and ELSEWHERE by way of the CPU, as with a GPU; PyTorch would drop or refuse them."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if function is torch.tensor and torch.device(kwargs.get("device") or "cpu").type == ELSEWHERE:
            return torch.tensor(*args, **kwargs | {"device": "cpu"}).to(ELSEWHERE)
        if function is torch.Tensor.new_tensor and args[0].device.type == ELSEWHERE:
            return torch.tensor(*args[1:], **{"dtype": args[0].dtype, **kwargs}).to(ELSEWHERE)
        if function is torch.Tensor.tolist:
            return function(args[0].cpu())
        return function(*args, **kwargs)


class Elsewhere(TorchDispatchMode):
    """Computes on ElsewhereTensors, refuses operations on tensors of two devices and counts what a GPU waits for."""

    WAITS = ("is_nonzero", "item", "_local_scalar_dense", "nonzero", "nonzero_numpy", "bincount")

    def __init__(self) -> None:
        super().__init__()
        self.waits: Counter[str] = Counter()
        self.operations = 0
        self.copies = CopiesNumbers()

    def __enter__(self) -> Any:
        self.copies.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.copies.__exit__(*error)

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_iter((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        elsewhere = any(isinstance(tensor, ElsewhereTensor) for tensor in tensors)
        name = operation._schema.name.removeprefix("aten::")
        moves = name in ("to", "_to_copy", "copy_")
        for tensor in tensors:
            if elsewhere and not moves and not isinstance(tensor, ElsewhereTensor) and tensor.dim():
                raise RuntimeError(f"{name} of tensors on two devices")
        device = kwargs.get("device")
        here, there = elsewhere, elsewhere if device is None else torch.device(device).type == ELSEWHERE
        masks = name == "index" and any(tensor.dtype == torch.bool for tensor in tensors[1:])
        if (moves and here != there) or (here and (masks or name in self.WAITS)):
            self.waits[name] += 1
        self.operations += here
        real_args, real_kwargs = tree_map_only(ElsewhereTensor, lambda tensor: tensor.numbers, (args, kwargs))
        if device is not None:
            real_kwargs = real_kwargs | {"device": torch.device("cpu")}
        with torch.inference_mode(False):  # its tensors could not be views of those made before it
            result = operation(*real_args, **real_kwargs)
            if operation._schema.is_mutable:
                return kwargs.get("out", args[0])
            return tree_map_only(torch.Tensor, ElsewhereTensor, result) if there else result


@pytest.mark.parametrize("holds", [True, False])
def test_the_other_device_is_where_everything_is_computed(holds: bool) -> None:
    """Every tensor is made on the device that was asked for, or an operation would meet tensors of two devices."""
    joints, seed = speeding_hand(9), seed_that(holds)
    expected = render_video(joints, CAMERA, seed=seed, scenario=1, batching=CUDA)
    with Elsewhere() as device:
        pictures = render_video(joints, CAMERA, seed=seed, scenario=1, device=ELSEWHERE)
    assert device.operations > 1000
    assert np.array_equal(pictures, expected)
    with Elsewhere():
        labels = segment_video(joints, CAMERA, seed=seed, scenario=1, device=ELSEWHERE)
    assert np.array_equal(labels, segment_video(joints, CAMERA, seed=seed, scenario=1))


def test_a_gpu_works_on_many_frames_at_once() -> None:
    """Neither the operations nor those that wait for its results grow with the frames, the motion blur's aside."""
    seed, devices = seed_that(True), []
    for frames in (8, 32):
        with Elsewhere() as device:
            joints = np.tile(speeding_hand(8), (frames // 8, 1, 1))
            render_video(joints, CAMERA, seed=seed, scenario=1, device=ELSEWHERE)
        devices.append(device)
    few, many = devices
    assert 0 < many.waits.total() < 1.1 * few.waits.total()
    assert 0 < many.operations < 1.2 * few.operations


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("holds", [True, False])
def test_a_gpu_gives_the_cpus_pictures_up_to_rounding(holds: bool) -> None:
    joints, seed = speeding_hand(9), seed_that(holds)
    first, again = (render_video(joints, CAMERA, seed=seed, scenario=1, device="cuda") for _ in range(2))
    assert np.array_equal(first, again)
    difference = np.abs(first.astype(int) - render_video(joints, CAMERA, seed=seed, scenario=1).astype(int))
    assert difference.mean() < 0.05 and (difference > 3).mean() < 2e-3


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
