"""Rooms behind the hand (first version: a table, a wall and boxes)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional


def noise(random: np.random.Generator, height: int, width: int, cell: float, stretch: float = 1.0) -> Tensor:
    """[height, width] smooth noise of about unit deviation whose features are `cell` px, `stretch` times as wide."""
    rows, columns = max(int(height / cell), 2) + 2, max(int(width / (cell * stretch)), 2) + 2
    grid = torch.from_numpy(random.standard_normal((1, 1, rows, columns)).astype(np.float32))
    return functional.interpolate(grid, (height, width), mode="bicubic", align_corners=True)[0, 0]


def paint_background(random: np.random.Generator, scenario: int, height: int, width: int) -> Tensor:
    """[3, height, width] display colours 0–1."""
    picture = torch.zeros(3, height, width)
    horizon = int(height * random.uniform(0.1, 0.4))
    picture[:, :horizon] = torch.tensor(random.uniform(0.4, 0.9, 3), dtype=torch.float32)[:, None, None]
    picture[:, horizon:] = torch.tensor(random.uniform(0.2, 0.7, 3), dtype=torch.float32)[:, None, None]
    for cell in (80.0, 25.0, 8.0):
        picture = picture * (1 + 0.06 * noise(random, height, width, cell))
    return picture.clamp(0, 1)
