"""What a commit, a DVC experiment or the workspace says about the label-efficiency curves; nothing is checked out.

Files come from git, or from DVC where git does not keep them. The md5 sums in dvc.lock are held against the
revision's own files, so that results which no longer belong to their code and settings are known as stale.
"""

from __future__ import annotations

import difflib
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import yaml

from gesturepose.compare.lineage import Lineage, read_lineage
from gesturepose.compare.snapshots import CommitFiles, Files, WorkspaceFiles, git, listed_in_cache, read_from_dvc
from gesturepose.errors import InputError
from gesturepose.params import flatten

WORKSPACE: Final = "workspace"
PIPELINE: Final = "pipelines/weak/dvc.yaml"
CURVES: Final = "reports/weak/curves.csv"
PER_VIDEO: Final = "reports/weak/per_video.csv"
SEED_MEAN: Final = "reports/weak/seed_mean.csv"
CELLS: Final = "reports/weak/cells.csv"
METRICS: Final = "reports/weak/metrics.json"
PARAMS: Final = "params.yaml"
PIPELINES: Final = (PIPELINE, "dvc.yaml")
LOCKS: Final = tuple(f"{path.removesuffix('yaml')}lock" for path in PIPELINES)
_NUMBERS: Final = {  # columns that have to be numbers; the others are text
    CURVES: ("ratio", "seed", "value"),
    PER_VIDEO: ("ratio", "seed", "joints", "hits_30", "correct"),
    SEED_MEAN: ("ratio", "correct"),
    CELLS: ("ratio", "seed"),
}
_KEYS: Final = {  # the columns that name a row
    CURVES: ("direction", "method", "ratio", "seed", "metric"),
    PER_VIDEO: ("direction", "method", "ratio", "seed", "video"),
    SEED_MEAN: ("direction", "method", "ratio", "video"),
    CELLS: ("direction", "method", "ratio", "seed"),
}
_TEXTS: Final = {CURVES: (), PER_VIDEO: (), SEED_MEAN: (), CELLS: ("weights",)}
_DATA: Final = ("name", "protocol", "split", "videos", "fingerprint")
_MAKE = (
    f"`gesturepose matrix weak`, or `dvc repro {PIPELINE}`, makes it; commit reports/weak and the dvc.lock files then."
)


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """libyaml's: the lock of a matrix has thousands of lines, over which ruamel takes seconds."""


# YAML 1.2, in which DVC reads and writes, has floats without a point; for PyYAML 1e-06 is a text.
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+[eE][-+]?\d+$"), list("-+0123456789"))


@dataclass(frozen=True)
class Revision:
    """The results of one revision and what they came from."""

    name: str  # as it was asked for
    commit: str  # full SHA; the workspace's is that of HEAD
    subject: str
    curves: pd.DataFrame  # direction, method, ratio, seed, metric, value
    per_video: pd.DataFrame  # direction, method, ratio, seed, video, joints, hits_30, correct
    seed_mean: pd.DataFrame  # direction, method, ratio, video, correct
    cells: pd.DataFrame  # direction, method, ratio, seed, weights (SHA-256)
    data: Mapping[str, Any]  # name, protocol, split, videos, fingerprint
    params: Mapping[str, Any]  # dotted key → value, of params.yaml
    lineage: Lineage


def read_revisions(names: Sequence[str], root: Path) -> list[Revision]:
    """Read the revisions that `names` name: branches, tags, commits, `HEAD~2`, DVC experiments, or `workspace`.

    Raises:
        InputError: no name, an unknown one, the same revision twice, or results that are missing or of another schema.
    """
    if not names:
        raise InputError(
            "no revision to compare", hint="Name one or more, such as `gesturepose compare main workspace`."
        )
    commits = {name: None if name == WORKSPACE else _resolve(name, root) for name in dict.fromkeys(names)}
    known: dict[str | None, str] = {}
    for name in names:
        if commits[name] in known:
            first, where = known[commits[name]], (commits[name] or WORKSPACE)[:9]
            raise InputError(f"{first} and {name} are the same revision, {where}", hint="Name each revision once.")
        known[commits[name]] = name
    return [_read(name, commit, root) for name, commit in commits.items()]


def _resolve(name: str, root: Path) -> str:
    found = git(root, "rev-parse", "--verify", "-q", "--end-of-options", f"{name}^{{commit}}")
    if found:
        return found.decode().strip()
    if git(root, "rev-parse", "--git-dir") is None:
        raise InputError("is no git repository, and revisions are git's", file=root)
    from dvc.scm import Git, RevError, resolve_rev  # only for what git does not know: experiments

    try:
        with Git(str(root)) as scm:
            return str(resolve_rev(scm, name))
    except RevError:
        named = ("refs/heads", "refs/tags", "refs/remotes")
        listed = (git(root, "for-each-ref", "--format=%(refname:lstrip=2)", *named) or b"").decode().split()
        experiments = (git(root, "for-each-ref", "--format=%(refname)", "refs/exps") or b"").decode().split()
        choices = [WORKSPACE, "HEAD", *listed, *(ref.rsplit("/", 1)[1] for ref in experiments)]
        near = difflib.get_close_matches(name, choices, n=3)
        hint = (
            f"Did you mean {' or '.join(near)}?" if near else "`git log --oneline --all` and `dvc exp list` name them."
        )
        raise InputError(f"no revision {name!r}: no branch, tag, commit or DVC experiment", hint=hint) from None


def _read(name: str, commit: str | None, root: Path) -> Revision:
    files: Files = WorkspaceFiles(root) if commit is None else CommitFiles(root, commit)
    described = (git(root, "log", "-1", "--format=%H%x00%s", commit or "HEAD") or b"\0").decode(errors="replace")
    sha, _, subject = described.strip().partition("\0")
    fixed = files.read([CURVES, PER_VIDEO, SEED_MEAN, CELLS, METRICS, PARAMS, *LOCKS, *PIPELINES])
    settings = _yaml(fixed.get(PARAMS, b""), PARAMS, name)
    locks = {path: _yaml(fixed.get(path, b""), path, name) for path in LOCKS}
    pipelines = {path: _yaml(fixed.get(path, b""), path, name) for path in PIPELINES}
    for path in (CURVES, PER_VIDEO, SEED_MEAN, CELLS, METRICS):
        if path not in fixed:
            cached = path not in _uncached(pipelines[PIPELINE])
            fixed[path] = _read_cached(path, locks, name, commit, root, cached=cached)
    tables = {path: _table(fixed[path], path, name) for path in _NUMBERS}
    return Revision(
        name=name,
        commit=sha,
        subject=subject,
        curves=tables[CURVES],
        per_video=tables[PER_VIDEO],
        seed_mean=tables[SEED_MEAN],
        cells=tables[CELLS],
        data=_data(fixed[METRICS], name),
        params=dict(flatten(settings)),
        lineage=read_lineage(
            locks,
            pipelines,
            settings,
            files,
            results=(CURVES, PER_VIDEO, SEED_MEAN, CELLS, METRICS),
            listed=partial(listed_in_cache, root),
        ),
    )


def _uncached(pipeline: Mapping[str, Any]) -> set[str]:
    """The outs of a dvc.yaml that git keeps and DVC's cache does not."""
    found = set()
    for stage in (pipeline.get("stages") or {}).values():
        for kind in ("outs", "metrics", "plots"):
            for out in stage.get(kind) or ():
                if isinstance(out, dict):
                    found |= {path for path, options in out.items() if (options or {}).get("cache") is False}
    return found


def _read_cached(
    path: str, locks: Mapping[str, Any], name: str, commit: str | None, root: Path, *, cached: bool
) -> bytes:
    """A file that git does not have: from DVC, if a dvc.lock of the revision knows it and DVC keeps it."""
    outs = [
        out for lock in locks.values() for stage in lock.get("stages", {}).values() for out in stage.get("outs", ())
    ]
    md5 = next((out.get("md5") for out in outs if out["path"] == path), None)
    if md5 is None:
        raise InputError(f"the revision {name} has no {path}", hint=_MAKE)
    if not cached:
        in_git = commit is None and git(root, "cat-file", "-e", f"HEAD:./{path}") is not None
        bring = f"Bring it back: `git checkout HEAD -- {path}`." if in_git else f"It belongs in git. {_MAKE}"
        raise InputError(f"{path} of the revision {name} is not there, though dvc.lock knows it", hint=bring)
    if commit is None:
        raise InputError(
            f"is not there, though dvc.lock knows it (md5 {md5})", file=path, hint=f"Bring it back: `dvc pull {path}`."
        )
    content = read_from_dvc(root, commit, path)
    if content is None:
        raise InputError(
            f"{path} of the revision {name} is neither in git nor in DVC's cache (md5 {md5})",
            hint=f"Fetch it: `dvc fetch --all-commits {path}`. Where no remote has it: check {name} out, and {_MAKE}",
        )
    return content


def _yaml(content: bytes, path: str, name: str) -> dict[str, Any]:
    try:
        tree = yaml.load(content, _Loader)
    except yaml.YAMLError as error:
        raise InputError(f"not valid YAML in the revision {name}: {str(error).splitlines()[0]}", file=path) from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise InputError(f"expected a mapping in the revision {name}, not {type(tree).__name__}", file=path)
    return tree


def _table(content: bytes, path: str, name: str) -> pd.DataFrame:
    expected = (*dict.fromkeys((*_KEYS[path], *_NUMBERS[path], *_TEXTS[path])),)
    where = f"in the revision {name}"
    hint = f"Another version of the pipeline wrote it; the columns {', '.join(expected)} are expected."
    try:
        table = pd.read_csv(io.BytesIO(content), dtype=str, keep_default_na=False)
    except ValueError as error:  # pandas' ParserError and EmptyDataError, and text that is not UTF-8
        raise InputError(f"not a table {where}: {error}", file=path, hint=hint) from None
    missing = [column for column in expected if column not in table]
    if missing:
        raise InputError(f"no column {' or '.join(missing)} {where}", file=path, hint=hint)
    for column in _NUMBERS[path]:
        numbers = pd.to_numeric(table[column].where(table[column] != "", "nan"), errors="coerce")
        empty = table[column].isin(["", "nan"]) & (column not in (*_KEYS[path], "value"))  # a task that was not trained
        wrong = np.flatnonzero(numbers.isna() & ~empty)
        if len(wrong):
            value = table[column].iloc[wrong[0]]
            raise InputError(f"{column} is {value!r} {where}, no number", file=path, line=int(wrong[0]) + 2, hint=hint)
        table[column] = numbers.astype(int) if column == "seed" else numbers
    twice = np.flatnonzero(table.duplicated(list(_KEYS[path])))
    if len(twice):
        row = ", ".join(str(value) for value in table[list(_KEYS[path])].iloc[twice[0]])
        raise InputError(f"stands twice {where}: {row}", file=path, line=int(twice[0]) + 2, hint=hint)
    return table


def _data(content: bytes, name: str) -> dict[str, Any]:
    try:
        data = json.loads(content)["data"]
        return {key: data[key] for key in _DATA}
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"no data.{', data.'.join(_DATA)} in the revision {name}",
            file=METRICS,
            hint="Another version of the pipeline wrote it.",
        ) from None
