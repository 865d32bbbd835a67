"""Painting a room: a plane in perspective and the boxes, cylinders and sheets that stand and lie on it, in metres."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

Colour = NDArray[np.float64]  # [3] display values 0–1

EYE_M: Final = 0.5  # height of the camera above the plane
GOODS: Final = (
    (0.80, 0.20, 0.16),
    (0.93, 0.78, 0.25),
    (0.20, 0.42, 0.66),
    (0.92, 0.90, 0.85),
    (0.30, 0.55, 0.34),
    (0.16, 0.16, 0.18),
    (0.88, 0.52, 0.24),
    (0.62, 0.44, 0.30),
    (0.55, 0.58, 0.62),
)


def noise(random: np.random.Generator, height: int, width: int, cell: float, stretch: float = 1.0) -> Tensor:
    """[height, width] smooth noise of about unit deviation; features are `cell` px high, wider by `stretch`."""
    rows, columns = max(round(height / cell), 1) + 3, max(round(width / (cell * stretch)), 1) + 3
    grid = torch.from_numpy(random.standard_normal((1, 1, rows, columns)).astype(np.float32))
    return functional.interpolate(grid, (height, width), mode="bilinear", align_corners=True)[0, 0]


@dataclass
class Room:
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
        return np.stack([u, self.horizon + self.focal * (EYE_M - points[:, 1]) / depth], -1)

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
        area = 0.5 * float(
            np.sum(corners[:, 0] * np.roll(corners[:, 1], -1) - np.roll(corners[:, 0], -1) * corners[:, 1])
        )
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
        window = self.window(
            centre - np.array([1.8, 1.2]) * scale * reach, centre + np.array([1.8, 1.6]) * scale * reach
        )
        if window is None:
            return
        far = (self.x[window] - x - 0.25 * reach).square() + (self.z[window] - z + 0.15 * reach).square()
        share = 0.5 * torch.exp(-far / reach**2) * (self.z[window] > 0)
        self.blend(window, share, torch.zeros(3, 1, 1))

    def box(
        self, x: float, z: float, size: tuple[float, float, float], yaw: float, colour: Colour, *, printed: bool = True
    ) -> None:
        """A box standing at (x, z) with its width, height and depth in metres; a label on each side if `printed`."""
        width, height, depth = size
        self.shadow(x, z, 0.65 * max(width, depth) + 0.15 * height)
        along, into = np.array([np.cos(yaw), 0, np.sin(yaw)]), np.array([-np.sin(yaw), 0, np.cos(yaw)])
        foot = np.array([x, 0.0, z])
        corners = [
            foot + sx * along * width / 2 + sz * into * depth / 2 for sx, sz in ((-1, -1), (1, -1), (1, 1), (-1, 1))
        ]
        if min(corner[2] for corner in corners) < 0.12:
            return
        up = np.array([0, height, 0])
        eye = np.array([0, EYE_M, 0])
        label = np.array(GOODS[int(self.random.integers(len(GOODS)))])
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
        if height < EYE_M:
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

    def cylinder(
        self, x: float, z: float, radius: float, height: float, colour: Colour, *, open_top: bool = False
    ) -> None:
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
        body = (v - float(top[1]) + 0.5).clamp(0, 1) * (float(foot[1]) + squash_foot * wide * bulge - v + 0.5).clamp(
            0, 1
        )
        body = body * ((1 - across.abs()) * wide + 0.5).clamp(0, 1)
        light = 0.55 + 0.4 * bulge * (1 + 0.35 * across) + 0.35 * torch.exp(-((across + 0.35) / 0.12).square())
        tint = torch.tensor(colour, dtype=torch.float32)[:, None, None] * light
        self.blend(window, body, tint.clamp(0, 1).expand(3, *body.shape))
        band = torch.tensor(GOODS[int(self.random.integers(len(GOODS)))], dtype=torch.float32)[:, None, None] * light
        place = (v - float(top[1]) - squash_top * wide * bulge) / max(float(foot[1] - top[1]), 1.0)
        if height > 2 * radius:
            self.blend(window, body * ((place > 0.25) & (place < 0.7)), band.clamp(0, 1).expand(3, *body.shape))
        lid = (
            (1 - (across.square() + ((v - float(top[1])) / max(squash_top * wide, 1.0)).square()).sqrt()) * wide * 0.5
        ).clamp(0, 1)
        rim = colour * (0.3 if open_top else 1.05)
        self.blend(window, lid, torch.tensor(np.clip(rim, 0, 1), dtype=torch.float32)[:, None, None])

    def sheet(
        self,
        x: float,
        z: float,
        size: tuple[float, float],
        yaw: float,
        colour: Colour,
        *,
        rows: int = 0,
        columns: int = 1,
    ) -> None:
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
