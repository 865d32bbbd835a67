"""Which process owns a run, whether it still lives, and the end of all that a runner of several dvc has started."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

RUNNER_VARIABLE = "GESTUREPOSE_RUNNER"  # `PID STARTED NAME`: what starts several dvc marks them and theirs with it
_POLL_S = 0.1
_IDLE_DVC_S = 30.0
_KILL_AFTER_S = 60.0
_CLOCK_TOLERANCE_S = 2.0  # the kernel's boot time, from which start times are computed, moves with clock corrections


@dataclass(frozen=True)
class ProcessIdentity:
    """A process as no other one ever is: pids are reused, and differ between hosts, boots and containers."""

    host: str
    boot: str  # the boot's id and the pid namespace
    pid: int
    started: float  # seconds since 1970

    @classmethod
    def of(cls, process: psutil.Process) -> ProcessIdentity:
        return cls(socket.gethostname(), _boot(), process.pid, process.create_time())

    @classmethod
    def from_tags(cls, tags: Mapping[str, str]) -> ProcessIdentity | None:
        """The owner that a run's tags name; None for a run of another program."""
        try:
            return cls(
                tags["gesturepose.host"],
                tags["gesturepose.boot"],
                int(tags["gesturepose.pid"]),
                float(tags["gesturepose.process_started"]),
            )
        except (KeyError, ValueError):
            return None

    def tags(self) -> dict[str, str]:
        return {
            "gesturepose.host": self.host,
            "gesturepose.boot": self.boot,
            "gesturepose.pid": str(self.pid),
            "gesturepose.process_started": f"{self.started:.2f}",
        }

    def same_process(self, other: ProcessIdentity) -> bool:
        same = (self.host, self.boot, self.pid) == (other.host, other.boot, other.pid)
        return same and abs(self.started - other.started) < _CLOCK_TOLERANCE_S

    def is_dead(self) -> bool:
        """True where this host can know it: same host, and the process is gone or an earlier boot's."""
        if self.host != socket.gethostname():
            return False
        if self.boot != _boot():
            return self.started < psutil.boot_time() - _CLOCK_TOLERANCE_S
        try:
            process = psutil.Process(self.pid)
            if process.status() == psutil.STATUS_ZOMBIE:
                return True
            return not self.same_process(ProcessIdentity.of(process))
        except psutil.NoSuchProcess:
            return True


def enclosing_dvc_process() -> psutil.Process | None:
    """The nearest ancestor that runs dvc; None outside a DVC stage."""
    if not os.environ.get("DVC_STAGE"):
        return None
    for process in psutil.Process().parents():
        try:
            if _runs_dvc(process.cmdline()):
                return process
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return None


@dataclass(frozen=True)
class Runner:
    """The process whose several dvc processes are one execution, and its name for people, such as `matrix weak`."""

    process: psutil.Process
    name: str

    @classmethod
    def from_mark(cls, mark: str) -> Runner | None:
        """The runner that a value of RUNNER_VARIABLE names; None where it is gone."""
        try:
            pid, started, name = mark.split(" ", 2)
            process = psutil.Process(int(pid))
            same = abs(process.create_time() - float(started)) < _CLOCK_TOLERANCE_S
            return cls(process, name) if same and process.status() != psutil.STATUS_ZOMBIE else None
        except (ValueError, psutil.NoSuchProcess):
            return None


def runner_mark(name: str) -> str:
    """The value of RUNNER_VARIABLE for what this process starts."""
    own = psutil.Process()
    return f"{own.pid} {own.create_time():.2f} {name}"


def enclosing_runner() -> Runner | None:
    """The runner that this process's environment names, if it is an ancestor; None otherwise."""
    runner = Runner.from_mark(os.environ.get(RUNNER_VARIABLE, ""))
    return runner if runner and runner.process in psutil.Process().parents() else None


def marked_processes(mark: str) -> list[psutil.Process]:
    """All live processes of this user whose environment carries a runner's mark."""
    found: list[psutil.Process] = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(RUNNER_VARIABLE) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):  # OSError: gone while it is read
            continue
    return found


def end_marked(mark: str) -> None:
    """Send SIGTERM to what a runner's dvc processes run, whatever starts meanwhile included; return when all are gone.

    A dvc itself ends because its command did, or writes the result of a command that was just done: it writes dvc.lock
    in place, and a signal could cut that off. Only where none runs anything for long are they told too: they
    wait for DVC's lock. What does not heed SIGTERM for a minute is killed.
    """
    told: dict[int, float] = {}
    idle_since = time.monotonic()
    while processes := marked_processes(mark):
        commands: list[psutil.Process] = []
        for process in processes:
            try:
                if not _runs_dvc(process.cmdline()):
                    commands.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        if commands:
            idle_since = time.monotonic()
        idle = time.monotonic() - idle_since > _IDLE_DVC_S
        for process in processes if idle else commands:
            try:
                if process.pid not in told:
                    told[process.pid] = time.monotonic()
                    process.terminate()
                elif time.monotonic() - told[process.pid] > _KILL_AFTER_S:
                    process.kill()
            except psutil.NoSuchProcess:
                continue
        time.sleep(_POLL_S)


def _runs_dvc(command: list[str]) -> bool:
    """`dvc …`, `python …/dvc …` or `python -m dvc …`, but not a shell whose text mentions dvc."""
    names = [Path(part).name.removesuffix(".exe") for part in command[:3]]
    if names[:1] == ["dvc"]:
        return True
    return names[:1] != [] and "python" in names[0] and (names[1:2] == ["dvc"] or names[1:] == ["-m", "dvc"])


def _boot() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not Linux
        return f"boot {psutil.boot_time():.0f}"
