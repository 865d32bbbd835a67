"""Which stages a nested pipeline has, with all that they depend on, and which of them have to run."""

from __future__ import annotations

import difflib
import os
from dataclasses import dataclass
from pathlib import Path

from gesturepose.errors import InputError

PIPELINES = Path("pipelines")
_FILE = "dvc.yaml"


@dataclass(frozen=True)
class PlannedStage:
    """One stage, of the nested pipeline or upstream of it."""

    address: str  # what `dvc repro` takes: `prepare`, `pipelines/weak/dvc.yaml:pose@weak-0.25-0`
    pipeline: str  # the nested pipeline that it is of, such as `weak`; empty for the project's own dvc.yaml
    needs: frozenset[str]  # addresses of the stages that it reads from
    changed: bool  # itself; where not, it may run because one upstream of it does
    runs: bool
    known_bytes: int | None  # of its outs as dvc.lock has them; None where one is not there

    @property
    def group(self) -> str:
        """The address without the cell: `prepare`, `pipelines/weak/dvc.yaml:pose`."""
        return self.address.partition("@")[0]

    @property
    def nested(self) -> bool:
        """Runs beside others. A stage of the project's own dvc.yaml may want the whole machine, and runs alone."""
        return bool(self.pipeline)


@dataclass(frozen=True)
class Plan:
    """The stages of one nested pipeline and everything upstream, in an order in which they can run."""

    name: str
    stages: tuple[PlannedStage, ...]

    @property
    def to_run(self) -> tuple[PlannedStage, ...]:
        """With those that DVC will skip if the stages before them leave their files as they were."""
        return tuple(stage for stage in self.stages if stage.runs)


def find_nested(root: Path, name: str) -> Path:
    """The dvc.yaml of the nested pipeline `name`, a folder below pipelines/.

    Raises:
        InputError: there is none; the message has the nearest name.
    """
    folder = root / PIPELINES
    names = sorted(file.parent.relative_to(folder).as_posix() for file in folder.rglob(_FILE) if file.parent != folder)
    if name in names:
        return folder / name / _FILE
    near = difflib.get_close_matches(name, names, n=1)
    there = f"there are {', '.join(names)}" if names else f"no folder below {PIPELINES} has a {_FILE}"
    hint = f"Did you mean {near[0]}?" if near else ""
    raise InputError(f"no nested pipeline {name!r}; {there}", hint=hint)


def make_plan(root: Path, name: str) -> Plan:
    """What has to run so that the nested pipeline `name` is up to date.

    A stage may run where DVC finds it changed or one upstream of it runs. Frozen stages do not run, and what only they
    depend on is left out.

    Raises:
        InputError: no such pipeline, one that DVC cannot read, or a stage of it that runs elsewhere at present.
    """
    from dvc.exceptions import DvcException
    from dvc.lock import LockError
    from dvc.repo import Repo, lock_repo
    from dvc.repo.reproduce import get_active_graph, plan_repro

    file = find_nested(root, name)
    planned: dict[str, PlannedStage] = {}
    try:
        with Repo(str(root), config={"core": {"no_scm": True}}) as repo, lock_repo(repo):
            graph = get_active_graph(repo.index.graph)
            own = [stage for stage in repo.index.stages if Path(stage.path) == file]
            if not own:
                raise InputError("no stage", file=file)
            for stage in plan_repro(graph, own):
                needs = frozenset(_address(needed, root) for needed in graph.successors(stage))
                sizes: list[int | None] = [out.meta.size if out.meta else None for out in stage.outs]
                address = _address(stage, root)
                changed = not stage.frozen and stage.changed()
                planned[address] = PlannedStage(
                    address=address,
                    pipeline=_pipeline(address),
                    needs=needs,
                    changed=changed,
                    runs=changed or (not stage.frozen and any(planned[needed].runs for needed in needs)),
                    known_bytes=None if None in sizes else sum(size or 0 for size in sizes),
                )
    except LockError as error:
        raise InputError(
            f"a dvc is at work here: {error}", hint="Wait for it, or end its process; then give the command again."
        ) from error
    except DvcException as error:
        raise InputError(f"DVC cannot read the pipelines: {error}", file=file) from error
    return Plan(name, tuple(planned.values()))


def _pipeline(address: str) -> str:
    folder = Path(address.rpartition(":")[0]).parent
    return folder.relative_to(PIPELINES).as_posix() if folder.is_relative_to(PIPELINES) else ""


def _address(stage: object, root: Path) -> str:
    path = Path(os.path.relpath(getattr(stage, "path"), root)).as_posix()  # noqa: B009  DVC has no types
    name = getattr(stage, "name", None)
    return path if name is None else name if path == _FILE else f"{path}:{name}"
