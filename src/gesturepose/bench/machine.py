"""The machine and the versions that a table's figures belong to."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import psutil
import torch
from pydantic import BaseModel, ConfigDict

from gesturepose.experiment import uses_gpu
from gesturepose.params import RuntimeSettings

# What decides about the speed of convolutions on a CPU, by the names Linux gives them.
_FEATURES: Final = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16")
_CPUINFO: Final = Path("/proc/cpuinfo")


class Machine(BaseModel):
    """What runs the measurements, and what else it was doing."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    cpu: str
    cores: int  # that this process may use
    cpu_features: list[str]
    memory_gib: float
    gpu: str | None
    system: str
    python: str
    torch: str
    opencv: str
    numpy: str
    device: str  # here and below params.yaml's runtime section, the device resolved
    precision: str
    channels_last: bool
    compile: bool
    threads: int
    deterministic: bool
    load_before: float  # mean number of busy processes in the minute before; above 0.5 others disturb the figures


def describe(runtime: RuntimeSettings) -> Machine:
    """This machine, as `runtime` uses it."""
    cpu, flags = _processor()
    return Machine(
        cpu=cpu,
        cores=usable_cores(),
        cpu_features=[name for name in _FEATURES if name in flags],
        memory_gib=round(psutil.virtual_memory().total / 2**30, 1),
        gpu=torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        torch=torch.__version__,
        opencv=cv2.__version__,
        numpy=np.__version__,
        device="cuda" if uses_gpu(runtime) else "cpu",
        precision=runtime.precision,
        channels_last=runtime.channels_last,
        compile=runtime.compile,
        threads=runtime.threads,
        deterministic=runtime.deterministic,
        load_before=round(psutil.getloadavg()[0], 2),
    )


def usable_cores() -> int:
    """Processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _processor() -> tuple[str, set[str]]:
    """The model's name and its feature flags; where Linux's list is not there, what Python knows and no flags."""
    if not _CPUINFO.exists():
        return platform.processor() or platform.machine(), set()
    fields: dict[str, str] = {}
    for line in _CPUINFO.read_text().splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    name = " ".join(fields.get("model name", platform.machine()).split())
    return name, set(fields.get("flags", fields.get("Features", "")).split())
