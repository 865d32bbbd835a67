"""Rooms behind the hand: a kitchen counter, an office desk, a living room with people, painted once a video.

A room is a horizontal plane under a camera whose picture plane is upright, with a wall at its far edge. Objects stand
on the plane in metres and are painted from far to near; what lies on the plane is in perspective by construction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from gesturepose.synthetic.painting import EYE_M, GOODS, Colour, Room, noise

KITCHEN, OFFICE, SOCIAL = range(3)


def _tint(grey: Tensor, colour: Colour) -> Tensor:
    return torch.tensor(colour, dtype=torch.float32)[:, None, None] * grey


def _sample(texture: Tensor, across: Tensor, along: Tensor) -> Tensor:
    """Texture [n, m] looked up at coordinates that wrap at one."""
    grid = torch.stack([(across - across.floor()) * 2 - 1, (along - along.floor()) * 2 - 1], -1)[None]
    return functional.grid_sample(texture[None, None], grid, align_corners=False, padding_mode="border")[0, 0]


def _wood(room: Room, colour: Colour) -> Tensor:
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


def _stone(room: Room, colour: Colour) -> Tensor:
    random = room.random
    broad = _sample(noise(random, 64, 64, 12), room.x / 0.7, room.z / 0.7)
    speck = _sample(noise(random, 256, 256, 2.0), room.x / 0.25, room.z / 0.25)
    return _tint(0.95 + 0.05 * broad + 0.09 * speck, colour)


def _tiles(room: Room, colour: Colour) -> Tensor:
    random = room.random
    side = random.uniform(0.12, 0.25)
    a, b = room.x / side, room.z / side
    joint = torch.maximum((torch.frac(a).abs() - 0.5).abs(), (torch.frac(b).abs() - 0.5).abs())
    shade = torch.frac(torch.sin(torch.floor(a) * 12.9898 + torch.floor(b) * 78.233) * 43758.5).abs()
    return _tint(0.9 + 0.12 * shade - 0.35 * ((joint - 0.46) / 0.03).clamp(0, 1), colour)


def _cloth(room: Room, colour: Colour) -> Tensor:
    random = room.random
    side = random.uniform(0.05, 0.12)
    check = (torch.sin(room.x * np.pi / side) > 0).float() + (torch.sin(room.z * np.pi / side) > 0).float()
    fuzz = _sample(noise(random, 256, 256, 3.0), room.x / 0.4, room.z / 0.4)
    return _tint(1.0 - float(random.uniform(0.0, 0.22)) * check + 0.06 * fuzz, colour)


_PLANES: Final[tuple[tuple[Callable[[Room, Colour], Tensor], ...], ...]] = (
    (_wood, _stone, _tiles),
    (_wood, _stone),
    (_cloth, _wood, _tiles),
)
_PLANE_COLOURS: Final = (
    ((0.66, 0.50, 0.34), (0.82, 0.80, 0.76), (0.34, 0.33, 0.34), (0.50, 0.34, 0.22), (0.70, 0.72, 0.70)),
    ((0.74, 0.60, 0.44), (0.86, 0.85, 0.83), (0.42, 0.29, 0.20), (0.60, 0.62, 0.64)),
    ((0.50, 0.30, 0.28), (0.40, 0.44, 0.52), (0.62, 0.56, 0.46), (0.34, 0.26, 0.20), (0.74, 0.70, 0.64)),
)


def _wall(room: Room, scenario: int, edge: int) -> None:
    """Paints everything above row `edge`."""
    random, (_, width) = room.random, room.size
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
        colour = np.array(GOODS[int(random.integers(len(GOODS)))]) * random.uniform(0.5, 1.0)
        if random.random() < 0.3:
            colour = np.array([0.93, 0.96, 0.98])
        room.polygon(frame, colour * 0.55)
        middle = frame.mean(0)
        room.polygon(middle + (frame - middle) * 0.9, colour, fade=0.2)


def _people(room: Room, edge: int) -> None:
    """One or two people across the table: shoulders, neck and head, out of focus."""
    random, (_, width) = room.random, room.size
    plane = room.picture[:, edge:].clone()
    for _ in range(int(random.integers(1, 3))):
        size = width * random.uniform(0.16, 0.28)
        u, v = width * random.uniform(0.1, 0.9), edge - size * random.uniform(-0.2, 0.5)
        skin = np.array([0.82, 0.62, 0.50]) * random.uniform(0.45, 1.05)
        shirt = np.array(GOODS[int(random.integers(len(GOODS)))]) * random.uniform(0.5, 1.0)
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


def _furnish(room: Room, scenario: int) -> None:
    """Stands things on the plane, the far ones first."""
    random = room.random
    count = int(random.integers(9, 20)) if scenario != SOCIAL else int(random.integers(4, 12))
    for z in sorted(random.uniform(0.28, 1.7, count), reverse=True):
        x = float(random.uniform(-0.75, 0.75) * (z + 0.1))
        colour = np.clip(
            np.array(GOODS[int(random.integers(len(GOODS)))]) * random.uniform(0.7, 1.1) + random.normal(0, 0.04, 3),
            0.02,
            1,
        )
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
            room.cylinder(
                x, float(z), radius, radius * float(random.uniform(1.6, 5.0)), colour, open_top=random.random() < 0.5
            )
        elif kind < 0.74:
            room.box(
                x,
                float(z),
                (float(random.uniform(0.14, 0.26)), float(random.uniform(0.01, 0.05)), float(random.uniform(0.1, 0.3))),
                yaw,
                colour,
                printed=False,
            )
        else:
            sides = (
                float(random.uniform(0.05, 0.2)),
                float(random.uniform(0.06, 0.26)),
                float(random.uniform(0.04, 0.12)),
            )
            room.box(x, float(z), sides, yaw, colour)


def paint_background(random: np.random.Generator, scenario: int, height: int, width: int) -> Tensor:
    """[3, height, width] display colours 0–1 of one room; 0 kitchen, 1 office, 2 living room with people."""
    focal = 0.73 * width
    low, high = ((-0.9, 0.05), (-0.8, 0.15), (-0.45, 0.3))[scenario]
    horizon = height * float(random.uniform(low, high))
    v = torch.arange(height, dtype=torch.float32)[:, None].expand(height, width)
    u = torch.arange(width, dtype=torch.float32)[None].expand(height, width)
    z = torch.where(v > horizon + 1, focal * EYE_M / (v - horizon).clamp_min(1.0), torch.zeros(1))
    room = Room(random, torch.zeros(3, height, width), horizon, focal, (u - width / 2) * z / focal, z)
    colours = _PLANE_COLOURS[scenario]
    plane = _PLANES[scenario][int(random.integers(len(_PLANES[scenario])))]
    colour = (
        np.array(colours[int(random.integers(len(colours)))])
        * random.uniform(0.8, 1.15)
        * random.uniform(0.94, 1.06, 3)
    )
    room.picture = plane(room, np.clip(colour, 0, 1))
    edge = int(np.clip(horizon + focal * EYE_M / float(random.uniform(1.2, 2.4)), 0, height))
    _wall(room, scenario, edge)
    if scenario == SOCIAL and edge > 0.12 * height:
        _people(room, edge)
    _furnish(room, scenario)
    light = (
        1
        + 0.09 * noise(random, height, width, height / 1.5)
        + 0.02 * noise(random, height, width, max(width / 240, 1.0))
    )
    picture = room.picture * light * float(random.uniform(0.75, 1.05))
    return _soften(picture.clamp(0, 1), float(random.uniform(0.0012, 0.0045)) * width)


def _soften(picture: Tensor, radius: float) -> Tensor:
    """Depth of field: a Gaussian blur, edges repeated."""
    reach = max(int(2.5 * radius), 1)
    taps = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / max(radius, 0.3)).square())
    weights = (taps / taps.sum()).tolist()
    for axis in (1, 2):
        length = picture.shape[axis]
        pad = (0, 0, reach, reach) if axis == 1 else (reach, reach, 0, 0)
        padded = functional.pad(picture[None], pad, mode="replicate")[0]
        picture = torch.zeros_like(picture)
        for shift, weight in enumerate(weights):
            picture.add_(padded.narrow(axis, shift, length), alpha=weight)
    return picture
