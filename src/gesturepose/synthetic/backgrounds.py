"""Rooms behind the hand: a kitchen counter, an office desk, a living room with people, painted once a video.

A room is a horizontal plane under a camera whose picture plane is upright, with a wall at its far edge. Objects stand on
the plane in metres and are painted from far to near; what lies on the plane is in perspective by construction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Colour = NDArray[np.float64]  # [3] display values 0–1

KITCHEN, OFFICE, SOCIAL = range(3)
_EYE_M: Final = 0.5  # height of the camera above the plane
_GOODS: Final = ((0.80, 0.20, 0.16), (0.93, 0.78, 0.25), (0.20, 0.42, 0.66), (0.92, 0.90, 0.85), (0.30, 0.55, 0.34), (0.16, 0.16, 0.18), (0.88, 0.52, 0.24), (0.62, 0.44, 0.30), (0.55, 0.58, 0.62))


def noise(random: np.random.Generator, height: int, width: int, cell: float, stretch: float = 1.0) -> Tensor:
    """[height, width] smooth noise of about unit deviation whose features are `cell` px high, `stretch` times as wide."""
    rows, columns = max(round(height / cell), 1) + 3, max(round(width / (cell * stretch)), 1) + 3
    grid = torch.from_numpy(random.standard_normal((1, 1, rows, columns)).astype(np.float32))
    return functional.interpolate(grid, (height, width), mode="bilinear", align_corners=True)[0, 0]


@dataclass
class _Room:
    """The picture being painted and the plane's coordinates [h, w] in metres."""

    random: np.random.Generator
    picture: Tensor  # [3, h, w]
    horizon: float  # row
    focal: float  # px
    x: Tensor
    z: Tensor

    @property
    def size(self) -> tuple[int, int]:
        return self.picture.shape[1], self.picture.shape[2]

    def project(self, points: Colour) -> Colour:
        """[N, 3] (x right, y up from the plane, z away) m → [N, 2] px."""
        depth = np.maximum(points[:, 2], 0.05)
        u = self.size[1] / 2 + self.focal * points[:, 0] / depth
        return np.stack([u, self.horizon + self.focal * (_EYE_M - points[:, 1]) / depth], -1)

    def window(self, low: Colour, high: Colour) -> tuple[slice, slice] | None:
        """Rows and columns of the picture between two corners (u, v)."""
        height, width = self.size
        left, top = max(int(low[0]) - 1, 0), max(int(low[1]) - 1, 0)
        right, bottom = min(int(high[0]) + 2, width), min(int(high[1]) + 2, height)
        return (slice(top, bottom), slice(left, right)) if top < bottom and left < right else None

    def grid(self, window: tuple[slice, slice]) -> tuple[Tensor, Tensor]:
        rows, columns = window
        v = torch.arange(rows.start, rows.stop, dtype=torch.float32)[:, None]
        return torch.arange(columns.start, columns.stop, dtype=torch.float32)[None], v

    def blend(self, window: tuple[slice, slice], share: Tensor, colour: Tensor) -> None:
        area = self.picture[:, window[0], window[1]]
        area += share * (colour - area)

    def polygon(self, corners: Colour, colour: Colour, *, fade: float = 0.0, opacity: float = 1.0) -> None:
        """Fills a convex polygon [N, 2] px, darkening downwards by `fade`."""
        window = self.window(corners.min(0), corners.max(0))
        if window is None:
            return
        u, v = self.grid(window)
        area = 0.5 * float(np.sum(corners[:, 0] * np.roll(corners[:, 1], -1) - np.roll(corners[:, 0], -1) * corners[:, 1]))
        turn = 1.0 if area > 0 else -1.0
        inside = torch.full(torch.broadcast_shapes(u.shape, v.shape), 9.0)
        for (u0, v0), (u1, v1) in zip(corners, np.roll(corners, -1, 0), strict=True):
            length = float(np.hypot(u1 - u0, v1 - v0))
            if length > 1e-3:
                side = (float(u1 - u0) * (v - float(v0)) - float(v1 - v0) * (u - float(u0))) * (turn / length)
                inside = torch.minimum(inside, side)
        low, high = float(corners[:, 1].min()), float(corners[:, 1].max())
        shade = 1 - fade * ((v - low) / max(high - low, 1.0)).clamp(0, 1)
        tint = torch.tensor(colour, dtype=torch.float32)[:, None, None] * shade
        self.blend(window, (inside + 0.5).clamp(0, 1) * opacity, tint)

    def shadow(self, x: float, z: float, reach: float) -> None:
        """A soft dark patch on the plane around (x, z)."""
        centre = self.project(np.array([[x, 0.0, z]]))[0]
        scale = self.focal / max(z, 0.05)
        window = self.window(centre - np.array([1.8, 1.2]) * scale * reach, centre + np.array([1.8, 1.6]) * scale * reach)
        if window is None:
            return
        far = (self.x[window] - x - 0.25 * reach).square() + (self.z[window] - z + 0.15 * reach).square()
        share = 0.5 * torch.exp(-far / reach**2) * (self.z[window] > 0)
        self.blend(window, share, torch.zeros(3, 1, 1))

    def box(self, x: float, z: float, size: tuple[float, float, float], yaw: float, colour: Colour, *, printed: bool = True) -> None:
        """A box standing at (x, z) with its width, height and depth in metres; a label on each side if `printed`."""
        width, height, depth = size
        self.shadow(x, z, 0.65 * max(width, depth) + 0.15 * height)
        along, into = np.array([np.cos(yaw), 0, np.sin(yaw)]), np.array([-np.sin(yaw), 0, np.cos(yaw)])
        foot = np.array([x, 0.0, z])
        corners = [foot + sx * along * width / 2 + sz * into * depth / 2 for sx, sz in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        if min(corner[2] for corner in corners) < 0.12:
            return
        up = np.array([0, height, 0])
        eye = np.array([0, _EYE_M, 0])
        label = np.array(_GOODS[int(self.random.integers(len(_GOODS)))])
        for side in range(4):
            a, b = corners[side], corners[(side + 1) % 4]
            outward = (a + b) / 2 - foot
            if outward @ (eye - (a + b) / 2) <= 0:
                continue
            light = 0.62 + 0.3 * float(outward[0] / (np.linalg.norm(outward) + 1e-6))
            face = np.stack([a, b, b + up, a + up])
            self.polygon(self.project(face), colour * light, fade=0.25)
            if printed:
                self.face_print(face, label * light)
        if height < _EYE_M:
            self.polygon(self.project(np.stack([corner + up for corner in corners])), np.minimum(colour * 1.08, 1))

    def face_print(self, face: Colour, colour: Colour) -> None:
        """A label with a few bars on a quadrilateral [4, 3] m."""

        def part(s0: float, t0: float, s1: float, t1: float) -> Colour:
            def at(s: float, t: float) -> Colour:
                return (1 - t) * ((1 - s) * face[0] + s * face[1]) + t * ((1 - s) * face[3] + s * face[2])

            return self.project(np.stack([at(s0, t0), at(s1, t0), at(s1, t1), at(s0, t1)]))

        low, high = float(self.random.uniform(0.1, 0.35)), float(self.random.uniform(0.6, 0.9))
        self.polygon(part(0.12, low, 0.88, high), colour)
        ink = colour * 0.35 if colour.mean() > 0.45 else np.minimum(colour + 0.55, 1)
        for line in range(int(self.random.integers(1, 4))):
            level = low + (high - low) * (0.2 + 0.25 * line)
            self.polygon(part(0.2, level, float(self.random.uniform(0.5, 0.8)), level + 0.1 * (high - low)), ink)

    def cylinder(self, x: float, z: float, radius: float, height: float, colour: Colour, *, open_top: bool = False) -> None:
        """An upright can, jar, mug or (low) plate."""
        if z - radius < 0.15:
            return
        self.shadow(x, z, 1.3 * radius)
        foot, top = self.project(np.array([[x, 0.0, z], [x, height, z]]))
        wide = self.focal * radius / z
        squash_foot, squash_top = abs(foot[1] - self.horizon) / self.focal, abs(top[1] - self.horizon) / self.focal
        window = self.window(np.array([top[0] - wide, top[1] - wide]), np.array([top[0] + wide, foot[1] + wide]))
        if window is None:
            return
        u, v = self.grid(window)
        across = (u - float(top[0])) / wide
        bulge = (1 - across.square()).clamp_min(0).sqrt()
        body = (v - float(top[1]) + 0.5).clamp(0, 1) * (float(foot[1]) + squash_foot * wide * bulge - v + 0.5).clamp(0, 1)
        body = body * ((1 - across.abs()) * wide + 0.5).clamp(0, 1)
        light = 0.55 + 0.4 * bulge * (1 + 0.35 * across) + 0.35 * torch.exp(-((across + 0.35) / 0.12).square())
        tint = torch.tensor(colour, dtype=torch.float32)[:, None, None] * light
        self.blend(window, body, tint.clamp(0, 1).expand(3, *body.shape))
        band = torch.tensor(_GOODS[int(self.random.integers(len(_GOODS)))], dtype=torch.float32)[:, None, None] * light
        place = (v - float(top[1]) - squash_top * wide * bulge) / max(float(foot[1] - top[1]), 1.0)
        if height > 2 * radius:
            self.blend(window, body * ((place > 0.25) & (place < 0.7)), band.clamp(0, 1).expand(3, *body.shape))
        lid = ((1 - (across.square() + ((v - float(top[1])) / max(squash_top * wide, 1.0)).square()).sqrt()) * wide * 0.5).clamp(0, 1)
        rim = colour * (0.3 if open_top else 1.05)
        self.blend(window, lid, torch.tensor(np.clip(rim, 0, 1), dtype=torch.float32)[:, None, None])

    def sheet(self, x: float, z: float, size: tuple[float, float], yaw: float, colour: Colour, *, rows: int = 0, columns: int = 1) -> None:
        """Something flat: paper with `rows` lines of text, or a keyboard with rows × columns keys."""
        along, into = np.array([np.cos(yaw), 0, np.sin(yaw)]), np.array([-np.sin(yaw), 0, np.cos(yaw)])
        foot = np.array([x, 0.004, z])

        def part(s0: float, t0: float, s1: float, t1: float) -> Colour:
            corners = ((s0, t0), (s1, t0), (s1, t1), (s0, t1))
            return np.stack([foot + (s - 0.5) * size[0] * along + (t - 0.5) * size[1] * into for s, t in corners])

        if part(0, 0, 1, 1)[:, 2].min() < 0.12:
            return
        self.shadow(x, z, 0.45 * max(size))
        self.polygon(self.project(part(0, 0, 1, 1)), colour)
        ink = colour * 0.45 if colour.mean() > 0.5 else np.minimum(colour + 0.16, 1)
        for row in range(rows):
            t = 0.08 + 0.84 * row / rows
            for column in range(columns):
                s = 0.06 + 0.88 * column / columns
                end = s + 0.88 / columns * (float(self.random.uniform(0.55, 1.0)) if columns == 1 else 0.82)
                self.polygon(self.project(part(s, t, end, t + 0.5 * 0.84 / rows)), ink)


def _tint(grey: Tensor, colour: Colour) -> Tensor:
    return torch.tensor(colour, dtype=torch.float32)[:, None, None] * grey


def _sample(texture: Tensor, across: Tensor, along: Tensor) -> Tensor:
    """Texture [n, m] looked up at coordinates that wrap at one."""
    grid = torch.stack([(across - across.floor()) * 2 - 1, (along - along.floor()) * 2 - 1], -1)[None]
    return functional.grid_sample(texture[None, None], grid, align_corners=False, padding_mode="border")[0, 0]


def _wood(room: _Room, colour: Colour) -> Tensor:
    random = room.random
    yaw = random.uniform(-0.5, 0.5)
    a = room.x * np.cos(yaw) + room.z * np.sin(yaw)
    b = room.z * np.cos(yaw) - room.x * np.sin(yaw)
    plank = torch.floor(a / 0.14)
    shift = torch.frac(torch.sin(plank * 12.9898) * 43758.5).abs()
    grain = _sample(noise(random, 128, 128, 22, 0.12), a / 0.5 + shift, b / 1.6 + shift)
    fine = _sample(noise(random, 256, 256, 20, 0.07), a / 0.2 + 3 * shift, b / 0.9)
    seam = torch.exp(-(((a / 0.14 - plank) - 0.5).abs() - 0.5).square() / 0.0006)
    return _tint(0.94 + 0.12 * shift + 0.07 * grain + 0.04 * fine - 0.35 * seam, colour)


def _stone(room: _Room, colour: Colour) -> Tensor:
    random = room.random
    broad = _sample(noise(random, 64, 64, 12), room.x / 0.7, room.z / 0.7)
    speck = _sample(noise(random, 256, 256, 2.0), room.x / 0.25, room.z / 0.25)
    return _tint(0.95 + 0.05 * broad + 0.09 * speck, colour)


def _tiles(room: _Room, colour: Colour) -> Tensor:
    random = room.random
    side = random.uniform(0.12, 0.25)
    a, b = room.x / side, room.z / side
    joint = torch.maximum((torch.frac(a).abs() - 0.5).abs(), (torch.frac(b).abs() - 0.5).abs())
    shade = torch.frac(torch.sin(torch.floor(a) * 12.9898 + torch.floor(b) * 78.233) * 43758.5).abs()
    return _tint(0.9 + 0.12 * shade - 0.35 * ((joint - 0.46) / 0.03).clamp(0, 1), colour)


def _cloth(room: _Room, colour: Colour) -> Tensor:
    random = room.random
    side = random.uniform(0.05, 0.12)
    check = (torch.sin(room.x * np.pi / side) > 0).float() + (torch.sin(room.z * np.pi / side) > 0).float()
    fuzz = _sample(noise(random, 256, 256, 3.0), room.x / 0.4, room.z / 0.4)
    return _tint(1.0 - float(random.uniform(0.0, 0.22)) * check + 0.06 * fuzz, colour)


_PLANES: Final[tuple[tuple[Callable[[_Room, Colour], Tensor], ...], ...]] = ((_wood, _stone, _tiles), (_wood, _stone), (_cloth, _wood, _tiles))
_PLANE_COLOURS: Final = (
    ((0.66, 0.50, 0.34), (0.82, 0.80, 0.76), (0.34, 0.33, 0.34), (0.50, 0.34, 0.22), (0.70, 0.72, 0.70)),
    ((0.74, 0.60, 0.44), (0.86, 0.85, 0.83), (0.42, 0.29, 0.20), (0.60, 0.62, 0.64)),
    ((0.50, 0.30, 0.28), (0.40, 0.44, 0.52), (0.62, 0.56, 0.46), (0.34, 0.26, 0.20), (0.74, 0.70, 0.64)),
)


def _wall(room: _Room, scenario: int, edge: int) -> None:
    """Paints everything above row `edge`."""
    random, (height, width) = room.random, room.size
    if edge <= 0:
        return
    base = np.array([0.80, 0.78, 0.73]) * random.uniform(0.55, 1.1) * random.uniform(0.9, 1.1, 3)
    slope = torch.linspace(float(random.uniform(0.8, 1.1)), float(random.uniform(0.8, 1.1)), width)[None]
    wall = _tint((1 + 0.03 * noise(random, edge, width, width / 8)) * slope, np.minimum(base, 0.95))
    room.picture[:, :edge] = wall
    if scenario == KITCHEN:
        side = width / random.uniform(8, 16)
        u = (torch.arange(width) / side)[None]
        v = (torch.arange(edge) / (side * 0.55))[:, None]
        line = torch.maximum((torch.frac(u + 0.5 * (torch.floor(v) % 2)) - 0.5).abs(), (torch.frac(v) - 0.5).abs())
        room.picture[:, :edge] *= 1 - 0.25 * ((line - 0.46) / 0.03).clamp(0, 1)
    for _ in range(int(random.integers(2, 7))):  # windows, pictures, cupboards, shelves
        left, wide = random.uniform(-0.1, 0.9) * width, random.uniform(0.08, 0.3) * width
        top, tall = random.uniform(-0.3, 0.7) * edge, random.uniform(0.2, 0.8) * edge
        frame = np.array([[left, top], [left + wide, top], [left + wide, top + tall], [left, top + tall]])
        colour = np.array(_GOODS[int(random.integers(len(_GOODS)))]) * random.uniform(0.5, 1.0)
        if random.random() < 0.3:
            colour = np.array([0.93, 0.96, 0.98])
        room.polygon(frame, colour * 0.55)
        middle = frame.mean(0)
        room.polygon(middle + (frame - middle) * 0.9, colour, fade=0.2)


def _people(room: _Room, edge: int) -> None:
    """One or two people across the table: shoulders, neck and head, out of focus."""
    random, (_, width) = room.random, room.size
    plane = room.picture[:, edge:].clone()
    for _ in range(int(random.integers(1, 3))):
        size = width * random.uniform(0.16, 0.28)
        u, v = width * random.uniform(0.1, 0.9), edge - size * random.uniform(-0.2, 0.5)
        skin = np.array([0.82, 0.62, 0.50]) * random.uniform(0.45, 1.05)
        shirt = np.array(_GOODS[int(random.integers(len(_GOODS)))]) * random.uniform(0.5, 1.0)
        ring = np.linspace(0, 2 * np.pi, 24, endpoint=False)
        circle = np.stack([np.cos(ring), np.sin(ring)], -1)
        hair = skin * 0.25
        for centre, radii, colour in (
            ((u, v + size * 0.9), (size * 0.75, size * 0.85), shirt),
            ((u, v - size * 0.05), (size * 0.15, size * 0.3), skin * 0.85),
            ((u, v - size * 0.50), (size * 0.29, size * 0.36), hair),
            ((u, v - size * 0.42), (size * 0.24, size * 0.32), skin),
        ):
            room.polygon(np.array(centre) + circle * np.array(radii), colour, fade=0.25)
    room.picture[:, edge:] = plane


def _furnish(room: _Room, scenario: int) -> None:
    """Stands things on the plane, the far ones first."""
    random = room.random
    count = int(random.integers(9, 20)) if scenario != SOCIAL else int(random.integers(4, 12))
    for z in sorted(random.uniform(0.28, 1.7, count), reverse=True):
        x = float(random.uniform(-0.75, 0.75) * (z + 0.1))
        colour = np.clip(np.array(_GOODS[int(random.integers(len(_GOODS)))]) * random.uniform(0.7, 1.1) + random.normal(0, 0.04, 3), 0.02, 1)
        yaw, kind = float(random.uniform(-0.8, 0.8)), random.random()
        if scenario == OFFICE and kind < 0.45:
            paper = np.array([0.93, 0.93, 0.90]) if kind < 0.3 else np.array([0.18, 0.18, 0.2])
            if kind < 0.3:
                room.sheet(x, float(z), (0.21, 0.297), yaw, paper, rows=int(random.integers(6, 14)))
            else:
                room.sheet(x, float(z), (0.42, 0.14), yaw * 0.3, paper, rows=4, columns=12)
        elif kind < 0.30:
            room.cylinder(x, float(z), float(random.uniform(0.07, 0.13)), 0.012, np.clip(colour + 0.2, 0, 1))  # plate
        elif kind < 0.62:
            radius = float(random.uniform(0.025, 0.05))
            room.cylinder(x, float(z), radius, radius * float(random.uniform(1.6, 5.0)), colour, open_top=random.random() < 0.5)
        elif kind < 0.74:
            room.box(x, float(z), (float(random.uniform(0.14, 0.26)), float(random.uniform(0.01, 0.05)), float(random.uniform(0.1, 0.3))), yaw, colour, printed=False)
        else:
            sides = (float(random.uniform(0.05, 0.2)), float(random.uniform(0.06, 0.26)), float(random.uniform(0.04, 0.12)))
            room.box(x, float(z), sides, yaw, colour)


def paint_background(random: np.random.Generator, scenario: int, height: int, width: int) -> Tensor:
    """[3, height, width] display colours 0–1 of one room; 0 kitchen, 1 office, 2 living room with people."""
    focal = 0.73 * width
    low, high = ((-0.9, 0.05), (-0.8, 0.15), (-0.45, 0.3))[scenario]
    horizon = height * float(random.uniform(low, high))
    v = torch.arange(height, dtype=torch.float32)[:, None].expand(height, width)
    u = torch.arange(width, dtype=torch.float32)[None].expand(height, width)
    z = torch.where(v > horizon + 1, focal * _EYE_M / (v - horizon).clamp_min(1.0), torch.zeros(1))
    room = _Room(random, torch.zeros(3, height, width), horizon, focal, (u - width / 2) * z / focal, z)
    colours = _PLANE_COLOURS[scenario]
    plane = _PLANES[scenario][int(random.integers(len(_PLANES[scenario])))]
    colour = np.array(colours[int(random.integers(len(colours)))]) * random.uniform(0.8, 1.15) * random.uniform(0.94, 1.06, 3)
    room.picture = plane(room, np.clip(colour, 0, 1))
    edge = int(np.clip(horizon + focal * _EYE_M / float(random.uniform(1.2, 2.4)), 0, height))
    _wall(room, scenario, edge)
    if scenario == SOCIAL and edge > 0.12 * height:
        _people(room, edge)
    _furnish(room, scenario)
    light = 1 + 0.09 * noise(random, height, width, height / 1.5) + 0.02 * noise(random, height, width, max(width / 240, 1.0))
    picture = room.picture * light * float(random.uniform(0.75, 1.05))
    return _soften(picture.clamp(0, 1), float(random.uniform(0.0012, 0.0045)) * width)


def _soften(picture: Tensor, radius: float) -> Tensor:
    """Depth of field: a Gaussian blur, edges repeated."""
    reach = max(int(2.5 * radius), 1)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / max(radius, 0.3)).square())
    taps = taps / taps.sum()
    padded = functional.pad(picture[:, None], (reach, reach, reach, reach), mode="replicate")
    return functional.conv2d(functional.conv2d(padded, taps.view(1, 1, 1, -1)), taps.view(1, 1, -1, 1))[:, 0]
