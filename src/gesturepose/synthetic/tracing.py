"""Sphere tracing of the hand's distance field, tile by tile.

The field is the smooth union of rounded cones: d = −k log Σ exp(−dᵢ/k) within a group of cones, the minimum between
groups. The picture is cut into tiles of 8×8 px; a tile marches only if the projection of a cone reaches it, against
only those cones, from an analytic estimate of the first hit. The camera sits at the origin, so that a point on a ray
is t·d and the distance to a cone's axis needs two products per ray and cone, computed once per tile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import torch
from torch import Tensor

from gesturepose.geometry import Camera
from gesturepose.synthetic.batching import Batching
from gesturepose.synthetic.field import FAR_MM, Table
from gesturepose.synthetic.props import Prop, prop_distance, prop_normal
from gesturepose.synthetic.shapes import GROUPS, SMOOTHING_MM, Cones

TILE: Final = 8
_BUCKETS: Final = (3, 5, 7, 10, 14, 20, 28)  # tiles march together by the number of cones that reach them
_MARGIN_MM: Final = 5.0  # how far a smooth union can stand out of its members
_STEPS: Final = (5, 7, 18)  # after each round, tiles whose rays have all settled leave
_LEAST_SUM: Final = 1e-36
# What a group's field is far from all its members, at the least smoothing: no ray needs to know of a greater distance,
# and with it the field is the same however many of the empty groups are left out.
_MOST_MM: Final = -math.log(_LEAST_SUM) * min(SMOOTHING_MM)


@dataclass(frozen=True)
class Hits:
    """Every pixel the hand or the held object covers, M in all."""

    frame: Tensor  # int64 [M]
    row: Tensor  # int64 [M]
    column: Tensor  # int64 [M]
    coverage: Tensor  # [M] in (0, 1], share of the pixel covered (anti-aliasing)
    point: Tensor  # [3, M] mm, camera frame
    normal: Tensor  # [3, M] unit, outwards
    is_prop: Tensor  # bool [M], the held object rather than the hand
    cone: Tensor  # int64 [M], the nearest cone
    along: Tensor  # [M] mm from that cone's start, along its axis
    dorsal: Tensor  # [3, M] direction of the back of the hand there, not quite unit


def _disc(point: Tensor, radius: Tensor, camera: Camera) -> tuple[Tensor, Tensor, Tensor]:
    """Projection of a sphere: (u, v, radius) px of a disc that contains it."""
    depth = point[..., 2].clamp_min(1.0)
    x, y = point[..., 0] / depth, point[..., 1] / depth
    tilt = 1 + (x.square() + y.square()).sqrt()
    focal = max(camera.fx, camera.fy)
    return camera.fx * x + camera.cx, camera.fy * y + camera.cy, focal * radius * tilt / (depth - radius).clamp_min(1.0)


def _reached_tiles(cones: Cones, prop: Prop | None, camera: Camera) -> tuple[Tensor, Tensor]:
    """bool [B, tiles, P], the cone's projection reaches the tile; bool [B, tiles] for the held object."""
    device = cones.start.device
    rows, columns = -(-camera.height // TILE), -(-camera.width // TILE)
    centre = (TILE - 1) / 2
    v = (torch.arange(rows, device=device) * TILE + centre).repeat_interleave(columns).float()[:, None]
    u = (torch.arange(columns, device=device) * TILE + centre).repeat(rows).float()[:, None]
    reach = TILE * 0.7072 + 1.0
    u0, v0, r0 = (part[:, None] for part in _disc(cones.start, cones.start_radius + _MARGIN_MM, camera))
    u1, v1, r1 = (part[:, None] for part in _disc(cones.end, cones.end_radius + _MARGIN_MM, camera))
    length = ((u1 - u0).square() + (v1 - v0).square()).sqrt().clamp_min(1e-3)
    along_u, along_v = (u1 - u0) / length, (v1 - v0) / length
    slope = ((r0 - r1) / length).clamp(-0.99, 0.99)
    du, dv = u - u0, v - v0  # [B, tiles, P]
    y = du * along_u + dv * along_v
    x2 = (du.square() + dv.square() - y.square()).clamp_min(0)
    h = torch.minimum((y - x2.sqrt() * slope / (1 - slope.square()).sqrt()).clamp_min(0), length)
    # One disc may contain the other: then the hull is the larger disc, which the ends' own tests find.
    big = torch.maximum(r0, r1) + reach
    inside_hull = x2 + (y - h).square() < ((r0 + (r1 - r0) * h / length) + reach).square()
    at_start = (r0 >= r1) & (x2 + y.square() < big.square())
    at_end = (r1 > r0) & (x2 + (y - length).square() < big.square())
    hand = (inside_hull | at_start | at_end) & cones.drawn[:, None]
    if prop is None:
        return hand, hand.new_zeros(hand.shape[:2])
    pu, pv, pr = (part[:, None] for part in _disc(prop.centre, prop.bound_mm.expand(len(prop.centre)), camera))
    away = (u[:, 0] - pu).square() + (v[:, 0] - pv).square()
    return hand, (away < (pr + reach).square()) & prop.drawn[:, None]


@dataclass
class _March:
    """The state of one batch of N tiles with K cones each; R = TILE² rays a tile."""

    frame: Tensor  # [N]
    tile: Tensor  # [N]
    cones: Tensor  # [N, K]
    direction: Tensor  # [N, 3, R]
    along: Tensor  # [N, K, R] direction · axis
    twice_start: Tensor  # [N, K, R] 2 direction · start
    scalars: tuple[Tensor, ...]  # 8 × [N, K, 1]
    member: Tensor  # [N, G, K] one-hot, the groups that reach these tiles
    smoothing: Tensor  # [N, G, 1] mm, k of each group
    t: Tensor  # [N, R]
    near: Tensor  # [N, R] px, the smallest distance from the surface so far, in pixels at that depth
    near_t: Tensor  # [N, R]
    last: Tensor  # [N, R] mm, beyond it there is nothing left to meet
    has_cut: bool  # some cone is cut off square
    held: bool  # the object reaches these tiles

    def select(self, which: Tensor) -> _March:
        return _March(
            self.frame[which],
            self.tile[which],
            self.cones[which],
            self.direction[which],
            self.along[which],
            self.twice_start[which],
            tuple(part[which] for part in self.scalars),
            self.member[which],
            self.smoothing[which],
            self.t[which],
            self.near[which],
            self.near_t[which],
            self.last[which],
            self.has_cut,
            self.held,
        )


def _cone_distances(march: _March) -> tuple[Tensor, Tensor, Tensor]:
    """Signed distance of the points t·d to each cone [N, K, R], and h and D, which the gradient reuses."""
    offset, square, tangent, length, slope, radius, cut, _ = march.scalars
    t = march.t[:, None]
    y = (t * march.along).sub_(offset)
    x2 = t.sub(march.twice_start).mul_(t).add_(square).addcmul_(y, y, value=-1).clamp_min_(0)
    h = torch.addcmul(y, x2.sqrt(), tangent, value=-1).clamp_min_(0)
    h = torch.minimum(h, length, out=h)
    beyond = y - h
    reach = x2.addcmul_(beyond, beyond).sqrt_()
    distance = torch.addcmul(reach, h, slope, out=beyond).sub_(radius)
    if march.has_cut:
        distance = torch.maximum(distance, y.neg_().add_(cut), out=distance)
    return distance, h, reach


def _group_sums(march: _March, distance: Tensor) -> tuple[Tensor, Tensor]:
    """exp(−d/k) of every cone [N, K, R], which takes the distances' place, and its sums over the groups [N, G, R]."""
    weight = distance.mul_(march.scalars[7]).clamp_max_(80).neg_().exp_()
    return weight, torch.bmm(march.member, weight).clamp_min_(_LEAST_SUM)


def _hand_distance(march: _March) -> Tensor:
    """[N, R] the field at the rays' present points."""
    distance, _, _ = _cone_distances(march)
    _, sums = _group_sums(march, distance)
    return sums.log_().mul_(march.smoothing).amax(1).neg_().clamp_max_(_MOST_MM)


def _first_guess(march: _March) -> tuple[Tensor, Tensor]:
    """[N, R] where each ray first meets the sphere of a cone nearest to it, and where it has left all cones behind.

    The first is on the surface or near it on either side: the march takes signed steps.
    """
    offset, square, _, length, slope, radius, _, _ = march.scalars
    axial = march.along
    closest = march.twice_start * 0.5
    spread = axial.square().neg_().add_(1).clamp_min_(1e-4)
    h = (closest * axial).sub_(offset).div_(spread).clamp_min_(0)
    h = torch.minimum(h, length, out=h)
    closest.addcmul_(h, axial)
    gap2 = torch.mul(h, 2, out=spread).mul_(offset).add_(square).add_(h.square()).sub_(closest.square())
    r = torch.sub(radius, h.mul_(slope), out=h)
    inside = (r + 1.0).square_().sub_(gap2)
    graze = gap2.clamp_min_(0).sqrt_().sub_(r).clamp_min_(0)
    last = torch.where(graze < _MARGIN_MM, (closest + r).add_(_MARGIN_MM), 0.0)
    beside = (closest - r).add_(graze.mul_(3))
    guess = torch.where(inside > 0, closest.sub_(inside.clamp_min(0).sqrt_()), beside)
    return guess.amin(1).clamp_min_(1.0), last.amax(1)


def _batches(table: Table, hand: Tensor, held: Tensor, directions: Tensor, batching: Batching) -> Iterator[_March]:
    """Groups the reached tiles of all frames by their numbers of cones and groups."""
    frame, tile = (hand.any(-1) | held).nonzero(as_tuple=True)
    reached = hand[frame, tile]
    counts = reached.sum(-1)
    groups = (reached.to(table.member.dtype) @ table.member[:-1] > 0).sum(-1)
    order = torch.argsort((~reached).to(torch.uint8), dim=-1, stable=True)
    dummy = hand.shape[-1]
    order = torch.where(torch.arange(dummy, device=order.device) < counts[:, None], order, dummy)
    with_object = held[frame, tile]
    limits = (-1, *(bucket for bucket in _BUCKETS if bucket < dummy), dummy)
    for least, most, holds in [(*pair, holds) for pair in pairwise(limits) for holds in (False, True)]:
        chosen = ((counts > least) & (counts <= most) & (with_object == holds)).nonzero()[:, 0]
        chosen = chosen[groups[chosen].argsort(stable=True)]
        for part in chosen.split(max(batching.cones // max(most, GROUPS), 1)):
            if not len(part):
                continue
            frames, tiles, cones = frame[part], tile[part], order[part, :most]
            direction = directions[tiles]
            start, axis = table.start[frames[:, None], cones], table.axis[frames[:, None], cones]
            nothing = direction.new_zeros(len(part), TILE * TILE)
            scalars = tuple(column.contiguous() for column in table.scalars[frames[:, None], cones].split(1, -1))
            most_groups, has_cut = torch.stack([groups[part[-1]], (scalars[6] > -1).any()]).tolist()
            member, smoothing = _groups_of(table, cones, max(most_groups, 1))
            march = _March(
                frames,
                tiles,
                cones,
                direction,
                torch.bmm(axis, direction),
                torch.bmm(start, direction).mul_(2),
                scalars,
                member,
                smoothing,
                nothing,
                nothing + 1e6,
                nothing,
                nothing,
                bool(has_cut),
                holds,
            )
            march.t, march.last = _first_guess(march)
            yield march


def _groups_of(table: Table, cones: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The groups of cones [N, K], `most` of them a tile at the most: members [N, G, K] and smoothing [N, G, 1]."""
    member = table.member[cones].transpose(1, 2)  # [N, GROUPS, K]
    group = torch.argsort(1 - member.amax(2), dim=1, stable=True)[:, :most]
    member = member.gather(1, group[..., None].expand(-1, -1, cones.shape[1]))
    return member.contiguous(), table.smoothing[group][..., None]


def _run(march: _March, prop: Prop | None, pixel_mm: float) -> Iterator[_March]:
    """Marches a batch; yields its parts as they settle. `pixel_mm` is a pixel's width at depth 1."""
    held = prop.frames(march.frame) if prop is not None and march.held else None
    if held is not None:
        toward = (march.direction * held.centre[..., None]).sum(1)
        gap2 = held.centre.square().sum(-1, keepdim=True) - toward.square()
        depth2 = held.bound_mm**2 - gap2
        entry = torch.where((depth2 > 0) & held.drawn[:, None], toward - depth2.clamp_min(0).sqrt(), FAR_MM)
        march.t = torch.minimum(march.t, entry).clamp_min_(1.0)
        leaves = torch.where(entry < FAR_MM, toward + held.bound_mm, 0.0)
        march.last = torch.maximum(march.last, leaves)
    before = torch.full_like(march.t, FAR_MM)  # the distance one step ago
    stride = torch.zeros_like(before)
    for round_, steps in enumerate(_STEPS):
        for _ in range(steps):
            distance = _hand_distance(march)
            if held is not None:
                distance = torch.minimum(distance, prop_distance(held, march.direction * march.t[:, None]))
            empty = distance.abs()
            # A ray that moves away from everything takes double strides, and goes back where the two balls of known
            # emptiness at their ends do not touch: something thin may lie between.
            missed = stride > before + empty
            size = empty.div_(march.t * pixel_mm)
            closer = (size < march.near) & ~missed
            march.near = torch.where(closer, size, march.near)
            march.near_t = torch.where(closer, march.t, march.near_t)
            forward = torch.where(distance > before, 2.0 * distance, distance)
            stride = torch.where(missed, before - stride, forward)
            before = distance.masked_fill(missed, FAR_MM)
            march.t = (march.t + stride).clamp_(1.0, FAR_MM)
        if round_ == len(_STEPS) - 1:
            yield march.select((march.near < 1).any(1).nonzero()[:, 0])
            return
        # A ray has settled when it stands on the surface, or when it has passed everything.
        on_surface = distance.abs() < 0.15 * march.t * pixel_mm
        settled = (on_surface | (march.t > march.last)).all(1)
        if bool(settled.any()):
            yield march.select((settled & (march.near < 1).any(1)).nonzero()[:, 0])
            rest = (~settled).nonzero()[:, 0]
            if not len(rest):
                return
            march, before, stride = march.select(rest), before[rest], stride[rest]
            held = held.frames(rest) if held is not None else None


def _surface(march: _March, table: Table, prop: Prop | None, camera: Camera) -> Hits:
    """Normals and labels at the points where the rays came nearest."""
    march.t = march.near_t
    point = march.direction * march.t[:, None]
    distance, h, reach = _cone_distances(march)
    weight, sums = _group_sums(march, distance)
    fields = sums.log_().mul_(march.smoothing)
    best = fields.amax(1)
    weight.mul_(torch.bmm(march.member.transpose(1, 2), (fields == best[:, None]).to(weight.dtype)))
    weight.div_(weight.sum(1, keepdim=True).clamp_min_(1e-36))
    # argmax over a middle axis is slow; the greatest index among equals does as well.
    number = torch.arange(weight.shape[1], device=weight.device)[:, None]
    nearest = torch.where(weight == weight.amax(1, keepdim=True), number, 0).amax(1)
    cone = march.cones.gather(1, nearest).clamp_max_(table.member.shape[0] - 2)  # the dummy: a tile of the object alone

    frames = march.frame[:, None]
    start, axis = table.start[frames, march.cones].transpose(1, 2), table.axis[frames, march.cones].transpose(1, 2)
    outward = weight / reach.clamp_min_(1e-3)
    # Σ w (p − a − h v) / D, the field's exact gradient
    normal = point * outward.sum(1, keepdim=True)
    normal = normal.sub_(torch.bmm(start, outward)).sub_(torch.bmm(axis, h.mul_(outward)))
    along = (march.t[:, None] * march.along).sub_(march.scalars[0]).gather(1, nearest[:, None])[:, 0]
    if march.has_cut:
        cut_here = (along < 0.02) & (march.scalars[6][..., 0].gather(1, nearest) > -1)
        normal = torch.where(cut_here[:, None], -table.axis[frames, cone].transpose(1, 2), normal)
    dorsal = torch.bmm(table.dorsal[frames, march.cones].transpose(1, 2), weight)

    is_prop = torch.zeros_like(best, dtype=torch.bool)
    if prop is not None and march.held:
        held = prop.frames(march.frame)
        is_prop = prop_distance(held, point) < -best
        normal = torch.where(is_prop[:, None], prop_normal(held, point), normal)
    normal = _unit(normal)
    # At the silhouette the nearest point may face away by a rounding error: turn it to the rim.
    facing = (normal * march.direction).sum(1, keepdim=True)
    rim = _unit(normal - (facing + 0.05) * march.direction)
    normal = torch.where(facing > -0.02, rim, normal)
    coverage = ((1.0 - march.near) / 0.85).clamp_(0, 1)  # a hit is accurate to 0.15 px
    return _collect(march, camera, coverage, torch.cat([point, normal, dorsal, along[:, None]], 1), is_prop, cone)


def _unit(vectors: Tensor) -> Tensor:
    """[N, 3, R] → the same of length one."""
    x, y, z = vectors.unbind(1)
    return vectors * (x * x + y * y + z * z).clamp_min_(1e-20).rsqrt_()[:, None]


def _collect(march: _March, camera: Camera, coverage: Tensor, numbers: Tensor, is_prop: Tensor, cone: Tensor) -> Hits:
    """The covered pixels of settled tiles; `numbers` [N, 10, R] are point, normal, dorsal and along."""
    columns = -(-camera.width // TILE)
    pixel = ((coverage > 0.02) & (march.t > 2.0)).flatten().nonzero()[:, 0]
    tile = march.tile[pixel // TILE**2]
    row = tile // columns * TILE + pixel % TILE**2 // TILE
    column = tile % columns * TILE + pixel % TILE
    if camera.height % TILE or camera.width % TILE:
        inside = (row < camera.height) & (column < camera.width)
        kept = inside.nonzero()[:, 0]
        pixel, row, column = pixel[kept], row[kept], column[kept]
    point, normal, dorsal, along = numbers.transpose(0, 1).reshape(10, -1)[:, pixel].split((3, 3, 3, 1))
    return Hits(
        march.frame[pixel // TILE**2],
        row,
        column,
        coverage.flatten()[pixel],
        point,
        normal,
        is_prop.flatten()[pixel],
        cone.flatten()[pixel],
        along[0],
        dorsal,
    )


def tile_directions(camera: Camera, device: torch.device) -> Tensor:
    """[tiles, 3, TILE²] unit directions of all pixels' centres, tile by tile."""
    rows, columns = -(-camera.height // TILE), -(-camera.width // TILE)
    v, u = torch.meshgrid(
        torch.arange(rows * TILE, device=device, dtype=torch.float32),
        torch.arange(columns * TILE, device=device, dtype=torch.float32),
        indexing="ij",
    )
    rays = torch.stack([(u - camera.cx) / camera.fx, (v - camera.cy) / camera.fy, torch.ones_like(u)], -1)
    rays = torch.nn.functional.normalize(rays, dim=-1)
    return rays.reshape(rows, TILE, columns, TILE, 3).permute(0, 2, 4, 1, 3).reshape(rows * columns, 3, TILE * TILE)


def trace(
    cones: Cones, prop: Prop | None, camera: Camera, table: Table, directions: Tensor, batching: Batching
) -> Hits:
    """Everything the camera sees of the hand and the object in B frames.

    `directions` is `tile_directions(camera)`, `table` is `make_table(cones)`: both are shared with the shading.
    """
    hand, held = _reached_tiles(cones, prop, camera)
    parts = [
        _surface(part, table, prop, camera)
        for march in _batches(table, hand, held, directions, batching)
        for part in _run(march, prop, 1.0 / max(camera.fx, camera.fy))
    ]
    if not parts:
        return _no_hits(directions.device)
    names = Hits.__dataclass_fields__
    return Hits(*(torch.cat([getattr(part, name) for part in parts], -1) for name in names))


def _no_hits(device: torch.device) -> Hits:
    number = torch.zeros(0, device=device)
    index = torch.zeros(0, dtype=torch.int64, device=device)
    vector = torch.zeros(3, 0, device=device)
    return Hits(index, index, index, number, vector, vector, index.bool(), index, number, vector)
