"""Which process owns a run, and whether it still lives."""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

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
