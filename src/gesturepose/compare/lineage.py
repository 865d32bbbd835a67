"""What the curve of a revision was made from, and whether that is still what the revision holds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

from gesturepose.compare.snapshots import Files, dvc_md5, folder_md5
from gesturepose.provenance import CODE_FOLDERS

_ABSENT: Final = object()


@dataclass(frozen=True)
class Lineage:
    """From the dvc.lock files of a revision: the stages that lead to the curve, and no others."""

    code: Mapping[str, str]  # path → md5 that the stages ran with
    params: frozenset[str]  # the keys that the stages read: leaves or whole sections
    stale: tuple[str, ...]  # sentences; none where code, settings and results belong together

    def reads(self, key: str) -> bool:
        """Whether a stage reads the dotted key."""
        return any(key == known or key.startswith(f"{known}.") for known in self.params)


def read_lineage(
    locks: Mapping[str, Mapping[str, Any]],
    pipelines: Mapping[str, Mapping[str, Any]],
    settings: Mapping[str, Any],
    files: Files,
    *,
    results: Sequence[str],
    listed: Callable[[str], Mapping[str, str] | None],
) -> Lineage:
    """Walk from the stages that write `results` upward through the locks, and hold them against the revision's files.

    What DVC keeps in a lock though dvc.yaml has it no more, such as the cells of a ratio that was taken out, does not
    count.

    Args:
        locks: the contents of the dvc.lock files, and `pipelines` those of the dvc.yaml files, in the same order.
        settings: params.yaml.
        listed: the sums of the files in an out that is a folder, by their paths in it, from its own sum; None where
            DVC's cache does not have it.
    """
    stages = [
        (name.split("@")[0], entry)
        for lock, pipeline in zip(locks.values(), pipelines.values(), strict=True)
        for name, entry in lock.get("stages", {}).items()
        if _is_live(name, pipeline.get("stages") or {}, settings)
    ]
    writers = [index for index, (_, entry) in enumerate(stages) if _paths(entry, "outs") & set(results)]
    if not writers:
        return Lineage({}, frozenset(), (f"no dvc.lock names {results[0]}: nothing tells what it was made from",))
    reached = [stages[index] for index in sorted(_upstream(stages, writers))]

    code: dict[str, set[str]] = defaultdict(set)
    other: dict[str, set[str]] = defaultdict(set)
    users: dict[str, set[str]] = defaultdict(set)
    params: set[str] = set()
    changed: dict[str, set[str]] = defaultdict(set)
    outs = {out["path"]: out.get("md5") for _, entry in reached for out in entry.get("outs", ())}
    for group, entry in reached:
        for dependency in entry.get("deps", ()):
            path, md5 = dependency["path"], str(dependency.get("md5"))
            (code if path.split("/")[0] in CODE_FOLDERS else other)[path].add(md5)
            users[path].add(group)
        for file, values in entry.get("params", {}).items():
            params.update(values)
            for key, value in values.items():
                if file == "params.yaml" and _lookup(settings, key) != value:
                    changed[f"{key} in params.yaml"].add(group)
    for path, sums in code.items():
        if sums != {dvc_md5(files, path)}:
            changed[path] |= users[path]
    for path, sums in other.items():
        written = _written(path, outs, listed)
        if written is not None and sums != {written}:
            changed[path] |= users[path]
    sentences = [f"{what} is not what {_listed(groups)} ran with" for what, groups in sorted(changed.items())]
    present = files.read(results)
    for path in results:
        if path in present and path in outs and dvc_md5(files, path) != outs[path]:
            sentences.append(f"{path} is not the file that dvc.lock names")
    return Lineage({path: ", ".join(sorted(sums)) for path, sums in code.items()}, frozenset(params), tuple(sentences))


def _upstream(stages: Sequence[tuple[str, Mapping[str, Any]]], start: Iterable[int]) -> set[int]:
    writer = {path: index for index, (_, entry) in enumerate(stages) for path in _paths(entry, "outs")}
    reached: set[int] = set()
    waiting = list(start)
    while waiting:
        index = waiting.pop()
        if index in reached:
            continue
        reached.add(index)
        for path in _paths(stages[index][1], "deps"):
            # A dependency may be an output, lie in one, or be a folder of several.
            waiting += [found for out, found in writer.items() if _nested(out, path)]
    return reached


def _is_live(name: str, stages: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether dvc.yaml still has the stage `name` of a lock, which may be a cell of a matrix, such as cell@0.15-2."""
    group, _, cell = name.partition("@")
    if group not in stages:
        return False
    matrix = stages[group].get("matrix") if isinstance(stages[group], Mapping) else None
    if not isinstance(matrix, Mapping):
        return True
    axes = []
    for values in matrix.values():
        if isinstance(values, str):  # ${weak.ratios}
            values = _lookup(settings, values.strip().removeprefix("${").removesuffix("}").strip())
        if not isinstance(values, list):
            return True  # what only DVC can tell counts
        axes.append([str(value) for value in values])
    return cell in {"-".join(values) for values in product(*axes)}


def _written(path: str, outs: Mapping[str, Any], listed: Callable[[str], Mapping[str, str] | None]) -> str | None:
    """The sum that a dependency has by the outs of the stages before: itself, a folder of outs, or a file in one."""
    if path in outs:
        return str(outs[path])
    below = {out.removeprefix(f"{path}/"): str(md5) for out, md5 in outs.items() if out.startswith(f"{path}/")}
    if below:
        return None if any(md5.endswith(".dir") for md5 in below.values()) else folder_md5(below)
    for out, md5 in outs.items():
        if path.startswith(f"{out}/") and (files := listed(str(md5))) is not None:
            return files.get(path.removeprefix(f"{out}/"), "absent")
    return None


def _nested(one: str, other: str) -> bool:
    return one == other or one.startswith(f"{other}/") or other.startswith(f"{one}/")


def _paths(entry: Mapping[str, Any], kind: str) -> set[str]:
    return {item["path"] for item in entry.get(kind, ())}


def _lookup(tree: Any, key: str) -> Any:
    for part in key.split("."):
        if not isinstance(tree, Mapping) or part not in tree:
            return _ABSENT
        tree = tree[part]
    return tree


def _listed(names: Iterable[str]) -> str:
    *first, last = sorted(names)
    return f"{', '.join(first)} and {last}" if first else last
