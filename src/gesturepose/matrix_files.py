"""The weights that the cells of a matrix leave behind: none may be missing, and none too many."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from gesturepose.errors import InputError


def weights_of(folder: Path, names: Iterable[str], *, pipeline: str) -> dict[str, Path]:
    """The weights' files of the cells `names` of params.yaml, by name.

    Raises:
        InputError: one is missing, or there is a file of no cell, as of a ratio or a row that was taken out.
    """
    files = {name: folder / f"{name}.safetensors" for name in names}
    strays = sorted(path.name for path in folder.glob("*.safetensors") if path.stem not in files)
    if strays:
        raise InputError(
            f"{len(strays)} files of no cell of params.yaml: {', '.join(strays[:5])}",
            file=folder,
            hint="Delete them, or put their settings back.",
        )
    missing = [path for path in files.values() if not path.exists()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(files)} cells are missing",
            file=missing[0],
            hint=f"`gesturepose matrix {pipeline}` trains them, `dvc checkout` or `dvc pull` brings them.",
        )
    return files
