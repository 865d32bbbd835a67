"""A hand as rounded cones: 21 joints in, the primitives of a signed distance field out.

A rounded cone is the hull of two spheres. Lengths are millimetres in the camera frame. Radii are those of a hand whose
wrist→middle-MCP bone measures 70 mm and scale with that bone. Everything is batched over T frames; the tables have P
primitives, the same ones in the same order in every frame.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Final

import torch
from torch import Tensor

from gesturepose.skeleton import MIDDLE_MCP, WRIST

NOMINAL_BONE_MM: Final = 70.0
NEAR_MM: Final = 25.0  # nothing is drawn nearer to the camera than this

# Groups: primitives of one group melt into each other, groups meet in a crease, so that fingers stay apart.
PALM, THUMB, INDEX, MIDDLE, RING, PINKY, SLEEVE, GROUPS = range(8)
SMOOTHING_MM: Final = (4.5, 2.2, 2.2, 2.2, 2.2, 2.0, 3.0)
SKIN, CLOTH = 0, 1

# What a primitive is, for colour: nails sit on distal bones, creases at the ends of finger bones.
BONE_PALM, BONE_PROXIMAL, BONE_MIDDLE, BONE_DISTAL, BONE_ARM = range(5)

_FINGER_RADII_MM: Final = (
    (11.6, 10.4, 9.6, 7.4),  # thumb: its metacarpal's ends, then PIP(IP) and TIP
    (10.2, 8.9, 7.6, 6.3),
    (10.4, 9.1, 7.8, 6.4),
    (9.7, 8.5, 7.3, 6.0),
    (8.6, 7.4, 6.3, 5.2),
)
_CARPAL_OFFSET_MM: Final = (10.0, 3.5, -4.0, -11.0)  # towards the thumb, of the roots of index … pinky metacarpal
_CARPAL_RADII_MM: Final = (12.0, 12.0, 11.5, 10.5)
_KNUCKLE_RADII_MM: Final = (9.3, 9.5, 8.9, 7.8)


@dataclass(frozen=True)
class PalmFrame:
    """The palm's orthonormal frame in each frame [T, 3]: origin at the wrist, a right hand."""

    wrist: Tensor
    forward: Tensor  # towards the middle MCP
    radial: Tensor  # towards the thumb's side
    normal: Tensor  # out of the palm
    scale: Tensor  # [T] size of this hand relative to the nominal one


@dataclass(frozen=True)
class Cones:
    """P rounded cones in T frames."""

    start: Tensor  # [T, P, 3] mm
    end: Tensor  # [T, P, 3] mm
    start_radius: Tensor  # [T, P] mm
    end_radius: Tensor  # [T, P] mm
    dorsal: Tensor  # [T, P, 3] unit, towards the back of the hand, across the axis
    drawn: Tensor  # bool [T, P], False where the primitive has no finite place in front of the camera
    group: Tensor  # int64 [P]
    material: Tensor  # int64 [P]
    bone: Tensor  # int64 [P]
    flat: Tensor  # bool [P], cut off square at its start

    def frames(self, which: slice) -> Cones:
        """The same cones for some of the frames."""
        per_frame = {"start", "end", "start_radius", "end_radius", "dorsal", "drawn"}
        return Cones(
            **{
                f.name: getattr(self, f.name)[which] if f.name in per_frame else getattr(self, f.name)
                for f in fields(self)
            }
        )


def unit(vectors: Tensor) -> Tensor:
    """[..., 3] → [..., 3] of length one; a zero vector stays zero."""
    return vectors / vectors.norm(dim=-1, keepdim=True).clamp_min(1e-6)


def across(vectors: Tensor, axis: Tensor) -> Tensor:
    """[..., 3] → the unit direction of what is left of `vectors` at right angles to the unit `axis`."""
    return unit(vectors - (vectors * axis).sum(-1, keepdim=True) * axis)


def palm_frame(joints_cam_mm: Tensor) -> PalmFrame:
    """[T, 21, 3] mm → the palm's frame. The scale is the video's median, so that one bad row cannot swell the hand."""
    wrist = joints_cam_mm[:, WRIST]
    bone = joints_cam_mm[:, MIDDLE_MCP] - wrist
    lengths = bone.norm(dim=-1)
    usable = lengths[torch.isfinite(lengths) & (lengths > 1.0)]
    scale = usable.median() / NOMINAL_BONE_MM if len(usable) else lengths.new_tensor(1.0)
    forward = unit(bone)
    normal = across(torch.linalg.cross(joints_cam_mm[:, 5] - wrist, joints_cam_mm[:, 17] - wrist), forward)
    radial = torch.linalg.cross(forward, normal)
    return PalmFrame(wrist, forward, radial, normal, scale.expand(len(wrist)))


def _bend_towards(direction: Tensor, target: Tensor, most_radians: float) -> Tensor:
    """[T, 3] unit `direction`, turned towards the unit `target` by at most `most_radians`."""
    side = across(target, direction)
    angle = torch.atan2(torch.linalg.cross(direction, target).norm(dim=-1), (direction * target).sum(-1))
    angle = angle.clamp_max(most_radians)[:, None]
    return unit(direction * angle.cos() + side * angle.sin())


class _Builder:
    """Collects primitives; lengths given to `add` are nominal and scaled here."""

    def __init__(self, palm: PalmFrame) -> None:
        self.palm = palm
        self.points: list[tuple[Tensor, Tensor]] = []
        self.radii: list[tuple[float, float]] = []
        self.dorsal: list[Tensor] = []
        self.labels: list[tuple[int, int, int, bool]] = []

    def at(self, origin: Tensor, forward: float = 0.0, radial: float = 0.0, normal: float = 0.0) -> Tensor:
        """[T, 3] the point reached from `origin` by nominal millimetres along the palm's axes."""
        palm = self.palm
        return origin + palm.scale[:, None] * (forward * palm.forward + radial * palm.radial + normal * palm.normal)

    def add(
        self,
        start: Tensor,
        end: Tensor,
        radii: tuple[float, float],
        group: int,
        bone: int,
        *,
        dorsal: Tensor | None = None,
        material: int = SKIN,
        flat: bool = False,
    ) -> None:
        self.points.append((start, end))
        self.radii.append(radii)
        self.dorsal.append(across(-self.palm.normal if dorsal is None else dorsal, unit(end - start)))
        self.labels.append((group, material, bone, flat))

    def build(self, radius_factor: float) -> Cones:
        start = torch.stack([start for start, _ in self.points], 1)
        end = torch.stack([end for _, end in self.points], 1)
        radii = start.new_tensor(self.radii) * self.palm.scale[:, None, None] * radius_factor
        group, material, bone, flat = (
            torch.tensor(column, device=start.device) for column in zip(*self.labels, strict=True)
        )
        dorsal = torch.stack(self.dorsal, 1)
        return _in_front(
            Cones(start, end, radii[..., 0], radii[..., 1], dorsal, flat.new_ones(1), group, material, bone, flat)
        )


def _in_front(cones: Cones) -> Cones:
    """Shortens cones that reach behind the near plane; drops those wholly behind it or without finite ends."""
    start_gap = cones.start[..., 2] - cones.start_radius - NEAR_MM
    end_gap = cones.end[..., 2] - cones.end_radius - NEAR_MM
    finite = torch.isfinite(cones.start).all(-1) & torch.isfinite(cones.end).all(-1)
    drawn = finite & ((start_gap > 0) | (end_gap > 0))
    crossing = (start_gap / (start_gap - end_gap)).clamp(0, 1).nan_to_num(0.0)
    low = torch.where(start_gap < 0, crossing, torch.zeros_like(crossing))[..., None]
    high = torch.where(end_gap < 0, crossing, torch.ones_like(crossing))[..., None]
    axis, slope = cones.end - cones.start, (cones.end_radius - cones.start_radius)[..., None]
    nowhere = cones.start.new_tensor([0.0, 0.0, -1e3])

    def place(point: Tensor) -> Tensor:
        return torch.where(drawn[..., None], point, nowhere)

    def size(radius: Tensor) -> Tensor:
        return torch.where(drawn, radius[..., 0], torch.ones_like(start_gap))

    return Cones(
        place(cones.start + low * axis),
        place(cones.start + high * axis),
        size(cones.start_radius[..., None] + low * slope),
        size(cones.start_radius[..., None] + high * slope),
        cones.dorsal.nan_to_num(0.0),
        drawn,
        cones.group,
        cones.material,
        cones.bone,
        cones.flat,
    )


def hand_cones(
    joints_cam_mm: Tensor,
    palm: PalmFrame,
    *,
    elbow_cam_mm: tuple[float, float, float],
    cuff_mm: float | None,
    thickness: float = 1.0,
) -> Cones:
    """[T, 21, 3] mm → the cones of the hand, its forearm and, `cuff_mm` from the wrist, its sleeve.

    The forearm heads for `elbow_cam_mm` as far as a wrist bends, so that it leaves the picture where the wearer's arm
    would. `thickness` multiplies all radii; `cuff_mm=None` leaves the arm bare.
    """
    builder = _Builder(palm)
    at, add = builder.at, builder.add
    joint = joints_cam_mm.unbind(1)
    wrist = palm.wrist

    # Palm: four metacarpals, the two balls of the palm, the pads below the fingers, the web of the thumb.
    for finger in range(1, 5):
        knuckle = joint[1 + 4 * finger]
        carpal = at(wrist, forward=4.0, radial=_CARPAL_OFFSET_MM[finger - 1])
        add(carpal, knuckle, (_CARPAL_RADII_MM[finger - 1], _KNUCKLE_RADII_MM[finger - 1]), PALM, BONE_PALM)
    thumb_base, thumb_knuckle = joint[1], joint[2]
    add(at(wrist, forward=6.0, radial=9.0, normal=2.0), thumb_base, (12.0, 12.0), PALM, BONE_PALM)
    add(thumb_base, thumb_knuckle, (12.6, 10.6), PALM, BONE_PALM)
    ball = torch.lerp(thumb_base, thumb_knuckle, 0.55)
    add(
        at(wrist, forward=16.0, radial=8.0, normal=7.0),
        at(ball, normal=2.0, radial=-4.0),
        (11.0, 10.5),
        PALM,
        BONE_PALM,
    )
    edge = torch.lerp(wrist, joint[17], 0.8)
    add(
        at(wrist, forward=12.0, radial=-13.0, normal=4.5),
        at(edge, normal=4.0, radial=-1.0),
        (10.5, 8.0),
        PALM,
        BONE_PALM,
    )
    add(at(joint[5], forward=-9.0, normal=4.5), at(joint[9], forward=-7.0, normal=4.0), (7.0, 7.0), PALM, BONE_PALM)
    add(at(joint[13], forward=-6.0, normal=4.0), at(joint[17], forward=-7.0, normal=4.0), (7.0, 6.5), PALM, BONE_PALM)
    web = torch.lerp(thumb_base, thumb_knuckle, 0.72)
    add(web, torch.lerp(wrist, joint[5], 0.66), (6.5, 6.5), PALM, BONE_PALM)

    # Fingers. A stub of each proximal bone belongs to the palm as well, which rounds the roots and webs them.
    for finger, radii in enumerate(_FINGER_RADII_MM):
        first = 1 + 4 * finger
        chain = [joint[first + step] for step in range(4)]
        bones = [unit(chain[step + 1] - chain[step]) for step in range(3)]
        palmar = palm.normal if finger else 0.55 * palm.normal - 0.85 * palm.radial
        hinge = 0.5 * unit(torch.linalg.cross(bones[1], palmar)) + torch.linalg.cross(bones[0], bones[1])
        hinge = unit(hinge + torch.linalg.cross(bones[1], bones[2]))
        group = THUMB + finger
        root = 1 if finger == 0 else 0
        stub = torch.lerp(chain[root], chain[root + 1], 0.30)
        add(
            chain[root],
            stub,
            (radii[root] - 0.8, radii[root] - 1.6),
            PALM,
            BONE_PROXIMAL,
            dorsal=torch.linalg.cross(bones[root], hinge),
        )
        for step in range(root, 3):
            kind = BONE_DISTAL if step == 2 else BONE_PROXIMAL if step == root else BONE_MIDDLE
            dorsal = torch.linalg.cross(bones[step], hinge)
            add(chain[step], chain[step + 1], (radii[step], radii[step + 1]), group, kind, dorsal=dorsal)

    # Forearm: two cones side by side, since a wrist is wider than it is thick.
    elbow = joints_cam_mm.new_tensor(elbow_cam_mm)
    away = _bend_towards(-palm.forward, unit(elbow - wrist), 0.95)
    side = across(palm.radial, away)
    dorsal = across(-palm.normal, away)
    step_mm = palm.scale[:, None]

    def arm(distance: float, offset: float) -> Tensor:
        return wrist + step_mm * (away * distance + side * offset)

    for sign in (1.0, -1.0):
        add(arm(-2.0, 10.0 * sign), arm(70.0, 10.5 * sign), (13.5, 15.5), PALM, BONE_ARM, dorsal=dorsal)
        add(arm(70.0, 10.5 * sign), arm(420.0, 14.0 * sign), (15.5, 34.0), PALM, BONE_ARM, dorsal=dorsal)
        if cuff_mm is not None:
            radius = 15.5 + 18.5 * (cuff_mm - 70.0) / 350.0 + 6.5
            add(
                arm(cuff_mm, 11.0 * sign),
                arm(430.0, 14.0 * sign),
                (radius, 43.0),
                SLEEVE,
                BONE_ARM,
                dorsal=dorsal,
                material=CLOTH,
                flat=True,
            )
    return builder.build(thickness)
