"""What `dvc repro` costs where nothing is to be done."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

from gesturepose.bench.measure import Row, Section, Values, alternately, row
from gesturepose.bench.workplace import Case, Workplace
from gesturepose.errors import InputError
from gesturepose.params import PARAMS_FILE, apply_profile

PIPELINE: Final = Section(
    title="Pipeline",
    about="`dvc repro` where nothing is out of date, against a pipeline of one stage that does nothing: "
    "DVC's own start.",
)
_REPRO: Final = ("dvc", "repro", "dvc.yaml")
_NOTHING: Final = """\
stages:
  only:
    cmd: echo done > out
    outs:
      - out
"""


def _nothing_to_do(workplace: Workplace) -> list[Row]:
    """Seconds of a second `dvc repro`, against a pipeline of one stage that does nothing."""
    project, empty = workplace.folder / "project", workplace.folder / "empty"
    _copy_project(workplace.project, project)
    apply_profile("test", project / PARAMS_FILE)
    empty.mkdir()
    (empty / "dvc.yaml").write_text(_NOTHING)
    for folder in (project, empty):
        _run("git", "init", "-q", folder=folder, workplace=workplace)
    _run("dvc", "init", "-q", folder=empty, workplace=workplace)
    for folder in (project, empty):
        _run("git", "add", "-A", folder=folder, workplace=workplace)
        identity = ("-c", "user.name=bench", "-c", "user.email=bench@localhost")
        _run("git", *identity, "commit", "-q", "-m", "start", folder=folder, workplace=workplace)
        _run(*_REPRO, folder=folder, workplace=workplace)
    seconds = alternately(
        {
            "project": lambda: _run(*_REPRO, folder=project, workplace=workplace),
            "empty": lambda: _run(*_REPRO, folder=empty, workplace=workplace),
        },
        workplace.repeats,
    )
    name = "dvc repro with nothing to do, test profile"
    beyond = [own - other for own, other in zip(seconds["project"], seconds["empty"], strict=True)]
    baseline = Values("dvc repro of an empty pipeline", seconds["empty"])
    return PIPELINE.rows(
        [row(name, seconds["project"], "s", baseline), row(f"{name}, beyond the baseline", beyond, "s", baseline)]
    )


def _copy_project(source: Path, target: Path) -> None:
    """The files that git knows or would take up, without results."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=source,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:
        raise InputError("not a git work tree, of which dvc needs one", file=source, hint="Clone the project with git.")
    for name in filter(None, listed.stdout.split("\0")):
        if not (source / name).is_file() or name.startswith("reports/") or name == "dvc.lock":
            continue
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source / name, target / name)


def _run(*command: str, folder: Path, workplace: Workplace) -> None:
    """Runs with this environment's programs, DVC's caches in the bench's own folder."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MLFLOW_"))}
    environment |= {
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")]),
        "DVC_NO_ANALYTICS": "1",
        "DVC_SITE_CACHE_DIR": str(workplace.folder / "dvc"),
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} exited with {done.returncode}\n{done.stdout}\n{done.stderr}")


CASES: Final = (Case("dvc repro", _nothing_to_do),)
