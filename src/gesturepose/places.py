"""How many trainings run at once on this machine, and on which GPU each."""

from __future__ import annotations

import os

from gesturepose.params import RuntimeSettings


def job_places(runtime: RuntimeSettings, threads: int, jobs: int | None) -> list[str | None]:
    """One entry for each stage that runs at a time: its CUDA_VISIBLE_DEVICES, or None on a CPU.

    By default one a GPU, on a CPU as many as the cores bear that this process may use.
    """
    gpus = visible_gpus(runtime)
    if gpus:
        return [gpus[place % len(gpus)] for place in range(jobs or len(gpus))]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return [None] * (jobs or max(1, cores // threads))


def visible_gpus(runtime: RuntimeSettings) -> list[str]:
    """The names of the GPUs that stages may use, as CUDA_VISIBLE_DEVICES has them."""
    if runtime.device == "cpu":
        return []
    import torch  # it takes seconds to load

    if not torch.cuda.is_available():
        return []
    named = [entry.strip() for entry in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if entry.strip()]
    return named or [str(number) for number in range(torch.cuda.device_count())]
