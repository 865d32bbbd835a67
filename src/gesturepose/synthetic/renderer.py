"""From 21 joints to pictures: a shaded hand before a room, in PyTorch alone, the same code on CPU and GPU.

Everything a video looks like is drawn from its seed on the CPU; what is random in a frame depends on the seed and the
frame's number alone, so that the result does not depend on how frames are batched. GPUs round otherwise than CPUs:
their pictures differ in last bits.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torch.nn import functional

from gesturepose.errors import InputError
from gesturepose.geometry import Camera
from gesturepose.skeleton import JOINTS
from gesturepose.synthetic import shapes
from gesturepose.synthetic.backgrounds import paint_background
from gesturepose.synthetic.batching import FRAMES_TOGETHER, Batching, batching_on
from gesturepose.synthetic.field import make_table
from gesturepose.synthetic.props import Prop, place_prop
from gesturepose.synthetic.shading import Look, draw_look, shade
from gesturepose.synthetic.shapes import Cones, PalmFrame, hand_cones, palm_frame
from gesturepose.synthetic.tracing import tile_directions, trace

SCENARIOS: Final = 3  # kitchen, office, social
BACKGROUND, SKIN, SLEEVE, OBJECT = range(4)  # labels of `segment_video`
_OBJECT_SHARE: Final = 0.45  # of the videos hold something
_MARGIN: Final = 0.12  # the background reaches this far beyond the picture, for its drift
_LEAST_BLUR_PX: Final = 0.6  # smaller motions are not smeared
_CELL: Final = 16  # px, over which motion is spread around the hand


@dataclass(frozen=True)
class Scene:
    """One video, drawn and laid out, on the device it is rendered on."""

    camera: Camera
    cones: Cones  # T frames
    palm: PalmFrame
    prop: Prop | None
    look: Look
    background: Tensor  # [3, h, w] display colours 0–1
    drift: NDArray[np.float64]  # [T, 2, 3] rows of the affine map from picture to background, both in −1…1
    vignette: Tensor  # [H, W]
    noise: Tensor  # [3, h, w] deviations to cut a frame's noise from
    noise_at: NDArray[np.int64]  # [T, 2] where each frame's noise starts
    shutter: float  # share of the frame interval


def _check(joints_cam_mm: ArrayLike, camera: Camera, scenario: int) -> NDArray[np.float32]:
    joints = np.asarray(joints_cam_mm)
    if joints.ndim != 3 or joints.shape[1:] != (JOINTS, 3):
        raise InputError(f"joints have shape {joints.shape}, expected [frames, {JOINTS}, 3]")
    if not np.issubdtype(joints.dtype, np.floating):
        raise InputError(f"joints are {joints.dtype}, expected floating point millimetres")
    if scenario not in range(SCENARIOS):
        raise InputError(f"scenario {scenario} does not exist", hint=f"choose one of 0 … {SCENARIOS - 1}")
    if camera.width < 1 or camera.height < 1:
        raise InputError(f"the camera's picture has no pixels: {camera.width}x{camera.height}")
    return joints.astype(np.float32)


def _lay_out(
    joints_cam_mm: NDArray[np.float32], camera: Camera, seed: int, scenario: int, device: torch.device
) -> Scene:
    """Draws everything random about a video. One generator per subject matter, so that adding a draw moves no other."""
    shape_random, look_random, room_random, lens_random = (np.random.default_rng([seed, part]) for part in range(4))
    joints = torch.from_numpy(joints_cam_mm).to(device)
    frames = len(joints)
    palm = palm_frame(joints)
    elbow = shape_random.normal((190.0, 400.0, 120.0), (60.0, 60.0, 60.0))
    cuff = float(shape_random.uniform(45, 120)) if shape_random.random() < 0.65 else None
    thickness = float(shape_random.uniform(0.93, 1.07))
    holds = shape_random.random() < _OBJECT_SHARE
    cones = hand_cones(joints, palm, elbow_cam_mm=(elbow[0], elbow[1], elbow[2]), cuff_mm=cuff, thickness=thickness)
    prop = place_prop(palm, shape_random) if holds and frames else None
    height, width = camera.height, camera.width
    background = paint_background(
        room_random, scenario, round(height * (1 + 2 * _MARGIN)), round(width * (1 + 2 * _MARGIN))
    )
    v, u = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    vignette = 1 - float(lens_random.uniform(0.04, 0.2)) * (u.square() + v.square())
    size = (3, height + 64, width + 64)
    generator = torch.Generator().manual_seed(int(lens_random.integers(2**62)))
    grain = torch.randn(size, generator=generator)
    grain = 0.55 * grain + 0.6 * grain.mean(0, keepdim=True)
    level = float(lens_random.uniform(0.008, 0.024))
    return Scene(
        camera=camera,
        cones=cones,
        palm=palm,
        prop=prop,
        look=draw_look(look_random, scenario, device),
        background=background.to(device),
        drift=_drift(room_random, frames),
        vignette=vignette.to(device),
        noise=(level * grain).to(device),
        noise_at=np.array([np.random.default_rng([seed, 4, frame]).integers(0, 64, 2) for frame in range(frames)]),
        shutter=float(lens_random.uniform(0.2, 0.5)),
    )


def _drift(random: np.random.Generator, frames: int) -> NDArray[np.float64]:
    """[T, 2, 3] slow motion of the camera: a drift, a sway and a little roll."""
    time = np.arange(frames) / 30.0
    inner = 1 / (1 + 2 * _MARGIN)
    speed, phase = random.normal(0, 0.02, 2), random.uniform(0, 2 * np.pi, 3)
    start = random.uniform(-0.25, 0.25, 2) * (1 - inner)
    limit = 0.9 * (1 - inner) - 0.03
    shift = np.stack([start[i] + speed[i] * time + 0.012 * np.sin(1.9 * time + phase[i]) for i in range(2)], -1)
    shift = np.clip(shift, -limit, limit)
    roll = 0.012 * np.sin(1.1 * time + phase[2])
    rows = np.stack(
        [
            inner * np.cos(roll),
            -inner * np.sin(roll),
            shift[:, 0],
            inner * np.sin(roll),
            inner * np.cos(roll),
            shift[:, 1],
        ],
        -1,
    )
    return rows.reshape(frames, 2, 3)


def _part(scene: Scene, which: slice) -> tuple[Cones, Prop | None, PalmFrame]:
    palm = PalmFrame(*(getattr(scene.palm, name)[which] for name in PalmFrame.__dataclass_fields__))
    return scene.cones.frames(which), scene.prop.frames(which) if scene.prop else None, palm


def _velocities(scene: Scene, which: slice) -> Tensor:
    """[B, P, 2] px per frame: how the middle of each cone moves over the picture."""
    start, end, drawn = scene.cones.start, scene.cones.end, scene.cones.drawn
    middle = 0.5 * (start + end)
    depth = middle[..., 2:].clamp_min(shapes.NEAR_MM)
    focal = middle.new_tensor([scene.camera.fx, scene.camera.fy])
    place = torch.where(drawn[..., None], focal * middle[..., :2] / depth, torch.nan)
    frames = torch.arange(len(place), device=place.device)[which]
    before, after = place[(frames - 1).clamp_min(0)], place[(frames + 1).clamp_max(len(place) - 1)]
    span = (frames + 1).clamp_max(len(place) - 1) - (frames - 1).clamp_min(0)
    return ((after - before) / span.clamp_min(1)[:, None, None]).nan_to_num(0.0)


def _layer(scene: Scene, which: slice, directions: Tensor, batching: Batching) -> Tensor:
    """[B, 4, H, W] premultiplied colour and coverage of hand and object."""
    cones, prop, palm = _part(scene, which)
    table = make_table(cones)
    hits = trace(cones, prop, scene.camera, table, directions, batching)
    frames, height, width = len(cones.start), scene.camera.height, scene.camera.width
    layer = directions.new_zeros(6, frames * height * width)
    if not len(hits.frame):
        return layer[:4].view(4, frames, height, width).transpose(0, 1)
    colour = shade(hits, cones, table, prop, palm, scene.look, (frames, height, width), batching)
    speed = _velocities(scene, which) * scene.shutter
    moved = torch.where(hits.is_prop[:, None], speed[hits.frame, 0], speed[hits.frame, hits.cone]).T
    pixel = (hits.frame * height + hits.row) * width + hits.column
    layer[:, pixel] = torch.cat([colour, torch.ones_like(colour[:1]), moved]) * hits.coverage
    fastest = layer.new_zeros(-(-frames // FRAMES_TOGETHER))
    fastest.scatter_reduce_(0, hits.frame // FRAMES_TOGETHER, moved.abs().amax(0), "amax")
    return _blur_motion(layer.view(6, frames, height, width).transpose(0, 1), fastest)


def _blur_motion(layer: Tensor, fastest: Tensor) -> Tensor:
    """[B, 6, H, W] colour, coverage and motion (px over the open shutter, premultiplied) → [B, 4, H, W] smeared.

    `fastest` is the greatest motion of each FRAMES_TOGETHER frames. The motion is spread around the hand in cells
    first, since what moves also covers its surroundings.
    """
    height, width = layer.shape[2:]
    cells = functional.avg_pool2d(layer[:, 3:], _CELL, _CELL, ceil_mode=True, count_include_pad=False)
    cells = functional.avg_pool2d(cells, 3, 1, 1)
    covered = cells[:, 0] > 0
    motion = cells[:, 1:] / cells[:, :1].clamp_min(1e-4) * covered[:, None]
    blurred = layer[:, :4].clone()
    unmoved = layer.new_tensor([[[1.0, 0, 0], [0, 1, 0]]])
    # All numbers that decide anything are fetched at once: a GPU must not be waited for in every frame.
    reach, local_reach = fastest.tolist(), motion.abs().amax((1, 2, 3)).tolist()
    in_row, in_column = covered.any(2).cpu().numpy(), covered.any(1).cpu().numpy()
    for frame in range(len(layer)):
        rows, columns = in_row[frame].nonzero()[0].tolist(), in_column[frame].nonzero()[0].tolist()
        group_reach = reach[frame // FRAMES_TOGETHER]
        if not rows or group_reach <= _LEAST_BLUR_PX or local_reach[frame] < _LEAST_BLUR_PX:
            continue
        top, bottom = rows[0] * _CELL, min((rows[-1] + 1) * _CELL, height)
        left, right = columns[0] * _CELL, min((columns[-1] + 1) * _CELL, width)
        area = layer[frame : frame + 1, :4, top:bottom, left:right]
        local = motion[frame : frame + 1, :, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        size = [local.shape[2] * _CELL, local.shape[3] * _CELL]
        local = functional.interpolate(local, size, mode="bilinear", align_corners=False)
        across, down = local[:, :, : bottom - top, : right - left].unbind(1)
        step = torch.stack([across * (2.0 / (right - left)), down * (2.0 / (bottom - top))], -1)
        still = functional.affine_grid(unmoved, list(area.shape), align_corners=False)
        taps = torch.linspace(-0.5, 0.5, 5 if group_reach < 8 else 9, device="cpu").tolist()
        smeared = torch.zeros_like(area)
        for tap in taps:
            smeared += functional.grid_sample(area, still + tap * step, align_corners=False, padding_mode="border")
        blurred[frame, :, top:bottom, left:right] = smeared[0] / len(taps)
    return blurred


def _compose(scene: Scene, which: slice, layer: Tensor) -> Tensor:
    """uint8 [B, H, W, 3]: the layer over the drifting background, then lens and sensor."""
    frames, _, height, width = layer.shape
    maps = torch.tensor(scene.drift[which], dtype=torch.float32, device=layer.device)
    grid = functional.affine_grid(maps, [frames, 3, height, width], align_corners=False)
    picture = functional.grid_sample(
        scene.background.expand(frames, -1, -1, -1), grid, align_corners=False, padding_mode="border"
    )
    picture.mul_(1 - layer[:, 3:]).add_(layer[:, :3]).mul_(scene.vignette)
    for frame, (top, left) in zip(picture, scene.noise_at[which].tolist(), strict=True):
        frame.add_(scene.noise[:, top : top + height, left : left + width])
    return picture.mul_(255).add_(0.5).clamp_(0, 255).to(torch.uint8).permute(0, 2, 3, 1)


@torch.inference_mode()
def _render(scene: Scene, which: slice, directions: Tensor, batching: Batching) -> NDArray[np.uint8]:
    return _compose(scene, which, _layer(scene, which, directions, batching)).cpu().numpy()


def render_batches(
    joints_cam_mm: ArrayLike,
    camera: Camera,
    *,
    seed: int,
    scenario: int,
    device: str = "cpu",
    batching: Batching | None = None,
) -> Iterator[NDArray[np.uint8]]:
    """Renders a right hand from its joints, some frames at a time.

    `joints_cam_mm` [T, 21, 3] mm in the camera's frame, in the project's joint order. Yields uint8 [B, H, W, 3] RGB,
    T pictures in all, a function of the arguments but `batching`, which trades memory for speed; by default it is what
    suits the device. `scenario` is 0 kitchen, 1 office or 2 social. Where joints are not finite or lie behind the
    camera, the parts of the hand that hang on them are left out. Raises InputError for a wrong shape, type or scenario.
    """
    joints = _check(joints_cam_mm, camera, scenario)
    place = torch.device(device)
    batching = batching or batching_on(place)
    scene = _lay_out(joints, camera, seed, scenario, place)
    directions = tile_directions(camera, place)
    step = batching.frames(camera.height, camera.width)
    return (_render(scene, slice(i, i + step), directions, batching) for i in range(0, len(joints), step))


def render_video(
    joints_cam_mm: ArrayLike,
    camera: Camera,
    *,
    seed: int,
    scenario: int,
    device: str = "cpu",
    batching: Batching | None = None,
) -> NDArray[np.uint8]:
    """All pictures of `render_batches` at once: uint8 [T, H, W, 3] RGB."""
    batches = render_batches(joints_cam_mm, camera, seed=seed, scenario=scenario, device=device, batching=batching)
    return np.concatenate([np.empty((0, camera.height, camera.width, 3), dtype=np.uint8), *batches])


def segment_video(
    joints_cam_mm: ArrayLike, camera: Camera, *, seed: int, scenario: int, device: str = "cpu"
) -> NDArray[np.uint8]:
    """What each pixel shows, motion blur aside: uint8 [T, H, W] of BACKGROUND, SKIN, SLEEVE, OBJECT."""
    joints = _check(joints_cam_mm, camera, scenario)
    scene = _lay_out(joints, camera, seed, scenario, torch.device(device))
    labels = np.full((len(joints), camera.height, camera.width), BACKGROUND, dtype=np.uint8)
    with torch.inference_mode():
        directions = tile_directions(camera, torch.device(device))
        batching = batching_on(torch.device(device))
        for frame in range(len(joints)):
            cones, prop, _ = _part(scene, slice(frame, frame + 1))
            hits = trace(cones, prop, camera, make_table(cones), directions, batching)
            kind = torch.where(cones.material[hits.cone] == shapes.CLOTH, SLEEVE, SKIN)
            kind = torch.where(hits.is_prop, OBJECT, kind)
            solid = hits.coverage >= 0.5
            labels[frame, hits.row[solid].cpu().numpy(), hits.column[solid].cpu().numpy()] = kind[solid].cpu().numpy()
    return labels
