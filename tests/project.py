"""The project as a repository of its own, for tests that run its pipelines as a user would."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parent.parent


def run(*command, cwd, check=True):
    """A command as in a shell with the project's environment."""
    bin_folder = Path(sys.executable).parent
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MLFLOW_"))}
    environment |= {"PATH": f"{bin_folder}{os.pathsep}{environment['PATH']}", "DVC_NO_ANALYTICS": "1"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)} exited with {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done


def checkout(folder):
    """The project's files as a repository of its own, with the `test` profile and nothing run."""
    listed = run("git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", cwd=PROJECT).stdout
    for name in filter(None, listed.split("\0")):
        if (PROJECT / name).exists() and not name.startswith("reports/") and not name.endswith("dvc.lock"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, folder / name)
    run("gesturepose", "profile", "test", cwd=folder)
    run("git", "init", "-q", cwd=folder)
    commit(folder, "start")
    return folder


def commit(folder, message):
    run("git", "add", "-A", cwd=folder)
    run("git", "-c", "user.name=test", "-c", "user.email=test@localhost", "commit", "-qm", message, cwd=folder)


def stages_run(done):
    """Of `dvc repro`, by what it said."""
    return [line.split("'")[1].split("@")[0] for line in done.stdout.splitlines() if line.startswith("Running stage '")]


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
