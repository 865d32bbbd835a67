"""Which trainings make the label-efficiency curves of Sec. 4.2 (Fig. 4, middle and right).

A cell is one training: a direction (the task of which few videos have labels), a method, a share of labelled videos and
a seed. pipelines/weak/dvc.yaml has a stage for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gesturepose.params import Method, WeakSettings

Direction = Literal["pose", "gesture"]
DIRECTIONS: tuple[Direction, ...] = ("pose", "gesture")


@dataclass(frozen=True, order=True)
class Cell:
    """One training of the matrix."""

    direction: Direction
    method: Method
    ratio: float  # of the training videos, that keep their labels of the direction's task
    seed: int

    @property
    def name(self) -> str:
        """The name of its file; the ratio is written as DVC writes it."""
        return f"{self.direction}-{self.method}-{self.ratio}-{self.seed}"

    @property
    def tasks(self) -> tuple[Direction, ...]:
        """The tasks that it has labels of."""
        return (self.direction,) if self.method == "baseline" else DIRECTIONS


def all_cells(settings: WeakSettings) -> tuple[Cell, ...]:
    """The matrix that params.yaml asks for."""
    methods: dict[Direction, Sequence[Method]] = {
        "pose": ("baseline", "weak", *settings.further_pose_methods),
        "gesture": ("baseline", "weak"),
    }
    return tuple(
        Cell(direction, method, ratio, seed)
        for direction in DIRECTIONS
        for method in methods[direction]
        for ratio in settings.ratios
        for seed in settings.seeds
    )
