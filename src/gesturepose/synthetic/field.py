"""The hand's cones as tables for the distance field, and the field at arbitrary points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from gesturepose.synthetic.shapes import GROUPS, SMOOTHING_MM, Cones

FAR_MM: Final = 1e4


@dataclass(frozen=True)
class Table:
    """Per frame and cone, what the distance needs; a last dummy cone far behind the camera pads short lists."""

    start: Tensor  # [B, P + 1, 3] mm
    axis: Tensor  # [B, P + 1, 3] unit
    scalars: Tensor  # [B, P + 1, 8]: start·axis, |start|², slope/cos, length, slope, start radius, cut, 1/k
    member: Tensor  # [P + 1, GROUPS] one-hot
    smoothing: Tensor  # [GROUPS] mm, k
    dorsal: Tensor  # [B, P + 1, 3]
    features: Tensor  # [B, P + 1, 15]: start, axis, dorsal, their cross product (sideways), length, both radii


def make_table(cones: Cones) -> Table:
    """Cones of B frames → their table."""
    axis = cones.end - cones.start
    length = axis.norm(dim=-1)
    axis = axis / length.clamp_min(1e-4)[..., None]
    slope = ((cones.start_radius - cones.end_radius) / length.clamp_min(1e-4)).clamp(-0.95, 0.95)
    cut = torch.where(cones.flat, torch.zeros_like(length), torch.full_like(length, -FAR_MM))
    smoothing = length.new_tensor(SMOOTHING_MM)
    scalars = torch.stack(
        [
            (cones.start * axis).sum(-1),
            cones.start.square().sum(-1),
            slope / (1 - slope.square()).sqrt(),
            length,
            slope,
            cones.start_radius,
            cut,
            1 / smoothing[cones.group].expand_as(length),
        ],
        -1,
    )
    frames = len(length)
    far = length.new_tensor([0.0, 0.0, -FAR_MM])
    dummy = length.new_tensor([-FAR_MM, FAR_MM**2, 0.0, 0.0, 0.0, 1.0, -FAR_MM, 0.25])
    member = torch.nn.functional.one_hot(cones.group, GROUPS).to(length.dtype)
    sizes = torch.stack([length, cones.start_radius, cones.end_radius], -1)
    features = torch.cat([cones.start, axis, cones.dorsal, torch.linalg.cross(axis, cones.dorsal), sizes], -1)
    return Table(
        torch.cat([cones.start, far.expand(frames, 1, 3)], 1),
        torch.cat([axis, length.new_tensor([0.0, 0.0, 1.0]).expand(frames, 1, 3)], 1),
        torch.cat([scalars, dummy.expand(frames, 1, 8)], 1),
        torch.cat([member, member.new_zeros(1, GROUPS)]),
        smoothing,
        torch.cat([cones.dorsal, far.expand(frames, 1, 3) * 0], 1),
        torch.cat([features, features[:, :1]], 1),
    )


def field_near(
    table: Table, frame: Tensor, point: Tensor, direction: Tensor, steps_mm: tuple[float, ...]
) -> list[Tensor]:
    """Distance to the nearest cone of `point + s · direction` for each s.

    `frame` [N], `point` and `direction` [N, 3, R]; returns one [N, R] for each step.
    There is no smoothing: shadows do not show it.
    """
    start, axis = table.start[frame, :-1], table.axis[frame, :-1]  # [N, P, 3]
    offset, square, tangent, length, slope, radius, _, _ = table.scalars[frame, :-1].split(1, -1)
    y0 = torch.bmm(axis, point) - offset
    q0 = point.square().sum(1, keepdim=True) - 2 * torch.bmm(start, point) + square
    y1 = torch.bmm(axis, direction)
    q1 = 2 * ((point * direction).sum(1, keepdim=True) - torch.bmm(start, direction))
    distances = []
    for step in steps_mm:
        y = torch.add(y0, y1, alpha=step)
        x2 = torch.add(q0, q1, alpha=step).add_(step * step).addcmul_(y, y, value=-1).clamp_min_(0)
        h = torch.minimum(torch.addcmul(y, x2.sqrt(), tangent, value=-1).clamp_min_(0), length)
        reach = torch.addcmul(x2, y.sub_(h), y).sqrt_()
        distances.append(reach.addcmul_(h, slope).sub_(radius).amin(1))
    return distances
