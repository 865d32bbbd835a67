"""Dataset inputs of runs that lead back to the very data through DVC and git."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from mlflow.data.dataset_source import DatasetSource

from gesturepose.errors import InputError
from gesturepose.provenance import commits_with_lock_entry, project_root, read_pipeline
from gesturepose.tracking.store import FOLDER, store_root


class DvcDatasetSource(DatasetSource):
    """A path of the project and DVC's hash of its contents (None for data that DVC does not write)."""

    def __init__(self, path: str, md5: str | None) -> None:
        self.path = path
        self.md5 = md5

    @staticmethod
    def _get_source_type() -> str:
        return "dvc"

    @staticmethod
    def _can_resolve(raw_source: Any) -> bool:
        return False  # a bare string may be anything; the source is always built with its hash

    @classmethod
    def _resolve(cls, raw_source: Any) -> DvcDatasetSource:
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        return {"path": self.path, "md5": self.md5}

    @classmethod
    def from_dict(cls, source_dict: dict[Any, Any]) -> DvcDatasetSource:
        return cls(source_dict["path"], source_dict["md5"])

    def load(self) -> Path:
        """The data as they were: the workspace's, or those of the commit whose dvc.lock names the hash.

        Earlier data are taken from DVC's cache into `.gesturepose/datasets/<hash>`.

        Raises:
            InputError: no commit has that hash, or its contents are no longer in the cache.
        """
        root = project_root()
        here = root / self.path
        if here.exists() and (self.md5 is None or read_pipeline(root).out_md5.get(self.path) == self.md5):
            return here
        if self.md5 is None:
            raise InputError("the data are gone, and DVC does not keep them", file=here)
        target = store_root() / FOLDER / "datasets" / self.md5 / here.name
        if not target.exists():
            _restore(root, self.path, self.md5, target)
        return target


def dataset_source(root: Path, path: Path, md5_of_outs: Any) -> DvcDatasetSource:
    """The source for `path`, given as the project's own or relative to its folder."""
    relative = Path(os.path.relpath(root / path, root)).as_posix()
    return DvcDatasetSource(relative, md5_of_outs.get(relative))


def _restore(root: Path, path: str, md5: str, target: Path) -> None:
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException

    commits = commits_with_lock_entry(root, md5)
    if not commits:
        raise InputError(f"no commit's dvc.lock has {path} with the hash {md5}", hint="It was never committed.")
    temporary = target.with_name(f"{target.name}.{os.getpid()}.new")
    temporary.parent.mkdir(parents=True, exist_ok=True)
    try:
        DVCFileSystem(str(root), rev=commits[-1]).get(path, str(temporary), recursive=True)
    except (DvcException, OSError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise InputError(
            f"DVC cannot give {path} of commit {commits[-1]} back: {error}",
            hint="Fetch it with `dvc pull`, or repeat that commit with `dvc repro`.",
        ) from error
    temporary.replace(target)
