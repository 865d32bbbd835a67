"""Held objects: one box, cylinder or sphere a video, fixed in the palm's frame."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from gesturepose.synthetic.shapes import NEAR_MM, PalmFrame, unit

KINDS: Final = ("box", "cylinder", "sphere")
_HALF_MM: Final = {
    "box": ((9, 34), (12, 32), (28, 70)),
    "cylinder": ((9, 30), (9, 30), (30, 75)),
    "sphere": ((17, 34),) * 3,
}


@dataclass(frozen=True)
class Prop:
    """One object in B frames. Its third axis is its long one."""

    kind: str
    half_mm: Tensor  # [3] half sizes; a cylinder's radius and a sphere's radius stand first
    centre: Tensor  # [B, 3] mm, camera frame
    axes: Tensor  # [B, 3, 3] rows are the object's unit axes in the camera frame
    drawn: Tensor  # bool [B]

    @property
    def bound_mm(self) -> Tensor:
        """Radius of a sphere around the object."""
        if self.kind == "sphere":
            return self.half_mm[0]
        if self.kind == "cylinder":
            return (self.half_mm[0].square() + self.half_mm[2].square()).sqrt() + 1.0
        return self.half_mm.norm() + 1.0

    def frames(self, which: slice | Tensor) -> Prop:
        """The same object in some of the frames, in any order."""
        return Prop(self.kind, self.half_mm, self.centre[which], self.axes[which], self.drawn[which])


def place_prop(palm: PalmFrame, random: np.random.Generator) -> Prop:
    """Draws an object and lays it into the hand: against the palm, across it as a handle lies."""
    kind = KINDS[int(random.integers(len(KINDS)))]
    scale = float(palm.scale[0])
    half = [float(random.uniform(*bounds)) for bounds in _HALF_MM[kind]]
    if kind != "box":
        half[1] = half[0]
    if kind == "sphere":
        half[2] = half[0]
    thickness = half[0]
    forward, radial = float(random.uniform(58, 74)), float(random.uniform(-8, 10))
    tilt, roll = float(random.normal(0, 0.25)), float(random.normal(0, 0.15))
    if kind != "sphere" and random.random() < 0.25:
        tilt += np.pi / 2  # along the fingers rather than across the palm
    lift = 11.0 + thickness / max(scale, 1e-3)
    place = scale * (forward * palm.forward + radial * palm.radial + lift * palm.normal)
    centre = palm.wrist + place
    long = unit(np.cos(tilt) * palm.radial + np.sin(tilt) * palm.forward + roll * palm.normal)
    short = unit(palm.normal - (palm.normal * long).sum(-1, keepdim=True) * long)
    axes = torch.stack([short, torch.linalg.cross(long, short), long], 1)
    finite = torch.isfinite(centre).all(-1) & torch.isfinite(axes).all(-1).all(-1)
    half_mm = centre.new_tensor(half)
    drawn = finite & (centre[:, 2] - half_mm.norm() > NEAR_MM)
    return Prop(kind, half_mm, centre.nan_to_num(0.0), axes.nan_to_num(0.0), drawn)


def prop_coordinates(prop: Prop, point: Tensor) -> Tensor:
    """`point` [B, 3, R] mm in the camera frame → the object's own coordinates."""
    return torch.bmm(prop.axes, point - prop.centre[..., None])


def prop_distance(prop: Prop, point: Tensor) -> Tensor:
    """Signed distance [B, R] of `point` [B, 3, R]; far where the object is not drawn."""
    local = prop_coordinates(prop, point)
    if prop.kind == "sphere":
        distance = local.square().sum(1).sqrt_() - prop.half_mm[0]
    elif prop.kind == "cylinder":
        side = local[:, :2].square().sum(1).sqrt_() - (prop.half_mm[0] - 1.5)
        cap = local[:, 2].abs() - (prop.half_mm[2] - 1.5)
        distance = _outside(side, cap) - 1.5
    else:
        gap = local.abs() - (prop.half_mm - 2.0)[:, None]
        distance = gap.clamp_min(0).square().sum(1).sqrt_() + gap.amax(1).clamp_max(0) - 2.0
    return torch.where(prop.drawn[:, None], distance, 1e4)


def _outside(side: Tensor, cap: Tensor) -> Tensor:
    return (side.clamp_min(0).square() + cap.clamp_min(0).square()).sqrt() + torch.maximum(side, cap).clamp_max(0)


def prop_normal(prop: Prop, point: Tensor) -> Tensor:
    """Outward unit normals [B, 3, R] of the object at `point` [B, 3, R] near its surface."""
    local = prop_coordinates(prop, point)
    if prop.kind == "sphere":
        normal = local
    elif prop.kind == "cylinder":
        radial = local[:, :2]
        length = radial.square().sum(1, keepdim=True).sqrt()
        side = (length - (prop.half_mm[0] - 1.5)).clamp_min(1e-3)
        cap = (local[:, 2:].abs() - (prop.half_mm[2] - 1.5)).clamp_min(1e-3)
        normal = torch.cat([radial / length.clamp_min(1e-3) * side, local[:, 2:].sign() * cap], 1)
    else:
        normal = local.sign() * (local.abs() - (prop.half_mm - 2.0)[:, None]).clamp_min(1e-3)
    return torch.nn.functional.normalize(torch.bmm(prop.axes.transpose(1, 2), normal), dim=1)
