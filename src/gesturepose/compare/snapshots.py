"""The files of a commit or of the workspace, and DVC's sums over them."""

from __future__ import annotations

import hashlib
import json
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

from gesturepose.errors import InputError


class Files(Protocol):
    """Paths are relative to the project's folder, with `/`."""

    def read(self, paths: Iterable[str]) -> dict[str, bytes]:
        """The contents of those paths that are files."""
        ...

    def below(self, path: str) -> list[str]:
        """Every file at or below `path`."""
        ...


class CommitFiles:
    """The files that git keeps in one commit."""

    def __init__(self, root: Path, commit: str) -> None:
        self._root, self._commit = root, commit
        self._prefix = (git(root, "rev-parse", "--show-prefix") or b"").decode().strip()  # the project may lie deeper
        listed = git(root, "ls-tree", "-r", "-z", "--full-tree", "--name-only", commit) or b""
        names = listed.decode(errors="surrogateescape").split("\0")
        self._paths = {name.removeprefix(self._prefix) for name in names if name and name.startswith(self._prefix)}

    def read(self, paths: Iterable[str]) -> dict[str, bytes]:
        wanted = [path for path in paths if path in self._paths and "\n" not in path]
        names = "".join(f"{self._commit}:{self._prefix}{path}\n" for path in wanted)
        stream = git(self._root, "cat-file", "--batch", stdin=names.encode(errors="surrogateescape")) or b""
        found, start = {}, 0
        for path in wanted:  # each: `<sha> <type> <size>\n<content>\n`
            end = stream.index(b"\n", start)
            size = int(stream[start:end].rsplit(b" ", 1)[1])
            found[path] = stream[end + 1 : end + 1 + size]
            start = end + size + 2
        return found

    def below(self, path: str) -> list[str]:
        return [name for name in self._paths if name == path or name.startswith(f"{path}/")]


class WorkspaceFiles:
    """The files as they lie there, without those that git ignores (bytecode, which DVC ignores as well)."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def read(self, paths: Iterable[str]) -> dict[str, bytes]:
        return {path: (self._root / path).read_bytes() for path in paths if (self._root / path).is_file()}

    def below(self, path: str) -> list[str]:
        listed = git(self._root, "ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", path) or b""
        names = dict.fromkeys(filter(None, listed.decode(errors="surrogateescape").split("\0")))
        return [name for name in names if (self._root / name).is_file()]


def dvc_md5(files: Files, path: str) -> str | None:
    """The sum that DVC would write into dvc.lock for a file or folder; None where there is none."""
    names = files.below(path)
    sums = {name: hashlib.md5(content).hexdigest() for name, content in files.read(names).items()}
    if path in sums:
        return sums[path]
    if not sums:
        return None
    return folder_md5({name.removeprefix(f"{path}/"): value for name, value in sums.items()})


def folder_md5(sums: Mapping[str, str]) -> str:
    """DVC's sum of a folder, from those of its files by their paths in it.

    The md5 of the JSON list of both, by path, with `.dir` after it (dvc_data.hashfile.tree).
    """
    entries = [{"md5": sums[name], "relpath": name} for name in sorted(sums)]
    return hashlib.md5(json.dumps(entries).encode()).hexdigest() + ".dir"


def listed_in_cache(root: Path, md5: str) -> dict[str, str] | None:
    """The sums of a folder's files by their paths in it, as DVC's cache keeps them under the folder's sum `md5`."""
    shared = git(root, "config", "--file", ".dvc/config", "cache.dir")
    cache = (root / ".dvc" / shared.decode().strip()) if shared else root / ".dvc" / "cache"
    try:
        entries = json.loads((cache / "files" / "md5" / md5[:2] / md5[2:]).read_bytes())
    except (OSError, ValueError):
        return None
    return {entry["relpath"]: entry["md5"] for entry in entries}


def read_from_dvc(root: Path, commit: str, path: str) -> bytes | None:
    """A DVC output of a commit from DVC's cache, or a remote that answers; None where neither has it."""
    from dvc.api import DVCFileSystem
    from dvc.exceptions import DvcException

    try:
        content: bytes = DVCFileSystem(str(root), rev=commit).cat_file(path)
    except (DvcException, OSError):
        return None
    return content


def git(root: Path, *arguments: str, stdin: bytes | None = None) -> bytes | None:
    """Standard output of a git command, None where it fails."""
    try:
        done = subprocess.run(
            ["git", "-c", "core.quotepath=off", *arguments], cwd=root, input=stdin, capture_output=True, check=False
        )
    except FileNotFoundError:
        raise InputError("git is not installed, and revisions are git's", hint="Install git.") from None
    return done.stdout if done.returncode == 0 else None
