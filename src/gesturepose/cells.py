"""Which trainings make the label-efficiency curves of Sec. 4.2 (Fig. 4, middle and right).

A cell is one training: a direction (the task of which few videos have labels), a method, a share of labelled videos and
a seed. pipelines/weak/dvc.yaml has a stage for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gesturepose.errors import InputError
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


def cell_files(folder: Path, settings: WeakSettings) -> dict[Cell, Path]:
    """The weights of each cell of the matrix.

    Raises:
        InputError: one is missing, or there is a file of no cell, as of a ratio that was taken out.
    """
    files = {cell: folder / f"{cell.name}.safetensors" for cell in all_cells(settings)}
    strays = sorted(path for path in folder.glob("*.safetensors") if path not in files.values())
    if strays:
        raise InputError(
            f"{len(strays)} files of no cell of params.yaml: {', '.join(path.name for path in strays[:5])}",
            file=folder,
            hint="Delete them, or put their ratio, seed and method back.",
        )
    missing = [path for path in files.values() if not path.exists()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(files)} cells are missing",
            file=missing[0],
            hint="`gesturepose matrix weak` trains them, `dvc checkout` or `dvc pull` brings them.",
        )
    return files
