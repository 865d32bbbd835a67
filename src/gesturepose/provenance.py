"""What a result came from: the commit, uncommitted changes, and fingerprints of code, data and settings.

A stage's fingerprint covers all that may change its result: its command, the params it reads and the contents of
its dependencies, as dvc.yaml declares them. Two runs with one fingerprint are the same computation.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from pydantic import BaseModel

from gesturepose.errors import InputError
from gesturepose.processes import enclosing_dvc_process

UNKNOWN = "unknown"
CODE_FOLDERS = ("src", "pipelines")
_PROJECT_FILES = ("dvc.yaml", "params.yaml", "pyproject.toml")  # untracked, they make a tree dirty as code does
_PATCH_LIMIT = 1_000_000  # characters
_PATCH_FILES = 1000
_FOLDER_LIMIT = 1 << 30  # bytes; of a larger folder only the text is read
_TEXT = (".txt", ".json", ".csv", ".yaml")


@dataclass(frozen=True)
class StageRecord:
    """One stage of a dvc.yaml after templating; paths are relative to the project's folder, with `/`."""

    address: str  # `train`, or `pipelines/weak/dvc.yaml:cell@0` where dvc.yaml is not the project's own
    command: str
    params: Mapping[str, Any]
    code: tuple[str, ...]
    data: tuple[str, ...]
    outs: tuple[str, ...]


@dataclass(frozen=True)
class Pipeline:
    """All stages of a project, none where DVC does not know the folder; contents are those of the first look."""

    root: Path
    stages: tuple[StageRecord, ...]
    out_md5: Mapping[str, str | None] = field(default_factory=dict)  # of every out, from dvc.lock
    _digests: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    def find(self, address: str) -> StageRecord | None:
        """The stage with that address."""
        return next((stage for stage in self.stages if stage.address == address), None)

    def code_fingerprint(self, address: str) -> str:
        """Hash of the contents of the stage's dependencies under src/ and pipelines/."""
        stage = self.find(address)
        return UNKNOWN if stage is None else _digest(self._contents(stage.code))

    def data_fingerprint(self, address: str) -> str:
        """Hash of the contents of the stage's other dependencies."""
        stage = self.find(address)
        return UNKNOWN if stage is None else _digest(self._contents(stage.data))

    def fingerprint(self, address: str) -> str:
        """Hash of the stage's command, params and dependencies; `unknown` where no dvc.yaml declares the stage."""
        stage = self.find(address)
        if stage is None:
            return UNKNOWN
        contents = self._contents((*stage.code, *stage.data))
        return _digest({"command": stage.command, "params": stage.params, "contents": contents})

    def _contents(self, paths: Iterable[str]) -> dict[str, str]:
        for path in paths:
            if path not in self._digests:  # reading a dataset takes its time
                self._digests[path] = content_digest(self.root / path, self.out_md5.get(path))
        return {path: self._digests[path] for path in paths}


@dataclass(frozen=True)
class GitState:
    """The commit and what differs from it; `unknown` outside a git work tree."""

    commit: str
    branch: str
    dirty: bool
    patch: str  # for `git apply`; empty on a clean tree


def project_root(start: Path | None = None) -> Path:
    """The nearest folder upward from `start` (default: the current one) that holds `.dvc` or `.git`."""
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / ".dvc").is_dir() or (folder / ".git").exists():
            return folder
    raise InputError(
        f"{start} is not inside a project: no .dvc or .git there or above",
        hint="Change to the project's folder.",
    )


def read_pipeline(root: Path) -> Pipeline:
    """The stages that DVC sees in `root`, nested dvc.yaml files included, templates and matrices resolved.

    Raises:
        InputError: a dvc.yaml or dvc.lock that DVC refuses.
    """
    from dvc.dependency import ParamsDependency
    from dvc.exceptions import DvcException, NotDvcRepoError
    from dvc.repo import Repo

    if not (root / ".dvc").is_dir():
        return Pipeline(root, ())
    stages: list[StageRecord] = []
    out_md5: dict[str, str | None] = {}
    values: dict[tuple[str, ...], Mapping[str, Any]] = {}  # read once for all cells of a matrix: DVC takes its time
    try:
        # Reading stages needs no git, which may be absent. It needs DVC's lock: another dvc that ends a stage meanwhile
        # writes dvc.lock in place, and half of it would be read.
        with Repo(str(root), config={"core": {"no_scm": True}}, _wait_for_lock=True) as repo, repo.lock:
            for stage in repo.index.stages:
                if not stage.cmd:
                    continue
                params: dict[str, Any] = {}
                paths: list[str] = []
                for dependency in stage.deps:
                    if isinstance(dependency, ParamsDependency):
                        read = (dependency.fs_path, *dependency.params)
                        if read not in values:
                            values[read] = dependency.read_params()
                        params |= {f"{dependency.def_path}:{key}": value for key, value in values[read].items()}
                    else:
                        paths.append(_relative(dependency.fs_path, root))
                outs = {_relative(out.fs_path, root): out.hash_info.value for out in stage.outs}
                out_md5 |= outs
                file = _relative(stage.path, root)
                command = stage.cmd if isinstance(stage.cmd, str) else "\n".join(stage.cmd)
                code = tuple(path for path in paths if path.split("/")[0] in CODE_FOLDERS)
                data = tuple(path for path in paths if path not in code)
                address = stage.name if file == "dvc.yaml" else f"{file}:{stage.name}"
                stages.append(StageRecord(address, command, params, code, data, tuple(outs)))
    except NotDvcRepoError:
        return Pipeline(root, ())
    except DvcException as error:
        raise InputError(f"DVC cannot read the pipeline: {error}", file=root / "dvc.yaml") from error
    return Pipeline(root, tuple(stages), out_md5)


def stage_fingerprint(stage: str, root: Path) -> str:
    """Hash of all that may change the stage's result; `unknown` where no dvc.yaml in `root` declares it."""
    return read_pipeline(root).fingerprint(stage)


def current_address(stage: str, root: Path) -> str:
    """The address of the stage that runs: from DVC_STAGE under dvc, otherwise `stage` in the script's own dvc.yaml.

    DVC names the dvc.yaml relative to where dvc was started. A script run by hand belongs to the one beside it, if any,
    or else to the project's.
    """
    named = os.environ.get("DVC_STAGE")
    if not named:
        beside = Path(sys.argv[0]).absolute().with_name("dvc.yaml")
        nested = beside.is_file() and beside.parent != root and beside.is_relative_to(root)
        return f"{_relative(beside, root)}:{stage}" if nested else stage
    file, _, name = named.rpartition(":")
    dvc = enclosing_dvc_process()
    started_in = Path(dvc.cwd()) if dvc else root
    path = _relative(started_in / (file or "dvc.yaml"), root)
    return name if path == "dvc.yaml" else f"{path}:{name}"


def params_fingerprint(params: BaseModel, sections: Sequence[str]) -> str:
    """Hash of the values of the named sections."""
    values = params.model_dump(mode="json")
    return _digest({section: values[section] for section in sections})


def file_digest(path: Path) -> str:
    """SHA-256 of a file's contents, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def content_digest(path: Path, out_md5: str | None = None) -> str:
    """Hash of a file's or a folder's contents.

    A folder that declares its fingerprint in index.json is taken at its word, then DVC's hash `out_md5` is;
    otherwise its files are read. Beyond 1 GiB only the text files are: pictures count by name and size.
    """
    if path.is_file():
        return file_digest(path)
    if not path.is_dir():
        return "missing"
    declared = _declared_fingerprint(path)
    if declared or out_md5:
        return declared or str(out_md5)
    files = sorted(_files(path))
    sizes = {file: file.stat().st_size for file in files}
    everything = sum(sizes.values()) <= _FOLDER_LIMIT
    return _digest(
        {
            file.relative_to(path).as_posix(): file_digest(file)
            if everything or file.suffix in _TEXT
            else f"{size} bytes"
            for file, size in sizes.items()
        }
    )


def git_state(root: Path, pipeline: Pipeline | None = None) -> GitState:
    """The commit of `root` and its uncommitted changes.

    What a pipeline writes is no change: dvc.lock and every out of a dvc.yaml. Untracked files count where they are
    code or settings.
    """
    listed = _git(root, "ls-files", "--", ".")
    if not listed:
        return GitState(UNKNOWN, UNKNOWN, False, "")
    # An experiment's copy of the workspace starts from a commit of DVC's own; the user's is the baseline.
    baseline = os.environ.get("DVC_EXP_BASELINE_REV") or "HEAD"
    commit = (_git(root, "rev-parse", "--verify", "-q", f"{baseline}^{{commit}}") or "").strip()
    branch = (_git(root, "symbolic-ref", "-q", "--short", "HEAD") or "").strip() or "HEAD"
    if not commit:
        return GitState(UNKNOWN, branch, True, "")
    outs = tuple((pipeline or read_pipeline(root)).out_md5)
    difference = _git(root, "diff", "--name-only", "--relative", "--no-renames", "-z", commit, "--", ".") or ""
    others = _git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", ".") or ""
    changed = [path for path in filter(None, difference.split("\0")) if not _is_generated(path, outs)]
    untracked = [
        path
        for path in filter(None, others.split("\0"))
        if (path.split("/")[0] in CODE_FOLDERS or path in _PROJECT_FILES) and not _is_generated(path, outs)
    ]
    dirty = bool(changed or untracked)
    return GitState(commit, branch, dirty, _patch(root, commit, changed, untracked) if dirty else "")


def commits_with_lock_entry(root: Path, md5: str) -> list[str]:
    """The commits, newest first, that brought `md5` into a dvc.lock or took it out."""
    return (_git(root, "log", "--all", "--format=%H", f"-S{md5}", "--", ":(glob)**/dvc.lock") or "").split()


def _is_generated(path: str, outs: Iterable[str]) -> bool:
    return PurePosixPath(path).name == "dvc.lock" or any(path == out or path.startswith(f"{out}/") for out in outs)


def _patch(root: Path, commit: str, changed: Sequence[str], untracked: Sequence[str]) -> str:
    header = "".join(f"# untracked: {path} sha256 {file_digest(root / path)}\n" for path in untracked)
    names = [f":(literal){path}" for path in changed[:_PATCH_FILES]]
    difference = (_git(root, "diff", "--relative", "--no-ext-diff", commit, "--", *names) or "") if names else ""
    if len(changed) > _PATCH_FILES or len(difference) > _PATCH_LIMIT:
        header += (
            f"# cut: {len(changed)} files changed; this has at most {_PATCH_FILES} and {_PATCH_LIMIT} characters\n"
        )
    return header + difference[:_PATCH_LIMIT]


def _git(root: Path, *arguments: str) -> str | None:
    """Standard output of a git command, or None where git, or the repository, is absent."""
    environment = os.environ | {"GIT_OPTIONAL_LOCKS": "0", "LC_ALL": "C"}
    try:
        done = subprocess.run(
            ["git", "-c", "core.quotepath=off", "-c", "color.ui=never", *arguments],
            cwd=root,
            env=environment,
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        return None
    return done.stdout.decode(errors="replace") if done.returncode == 0 else None


def _files(folder: Path) -> Iterator[Path]:
    """Every file below, through links too (a dataset is often a link), without bytecode."""
    seen: set[str] = set()
    for parent, names, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in seen:
            names.clear()
            continue
        seen.add(real)
        names[:] = [name for name in names if name != "__pycache__"]
        yield from (Path(parent, file) for file in files if not file.endswith(".pyc"))


def _declared_fingerprint(folder: Path) -> str | None:
    try:
        index = json.loads((folder / "index.json").read_bytes())
    except (FileNotFoundError, ValueError):
        return None
    declared = index.get("fingerprint") if isinstance(index, dict) else None
    return declared if isinstance(declared, str) and declared else None


def _relative(path: str | Path, root: Path) -> str:
    # Not resolved: a dependency that is a link keeps the link's name.
    return Path(os.path.relpath(root / path, root)).as_posix()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()
