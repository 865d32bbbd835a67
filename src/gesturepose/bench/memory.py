"""Peak memory: exactly what PyTorch allocates, so that a repeat gives the same number.

On a CPU the profiler writes down each allocation and each release of PyTorch's allocator, and the peak is that of their
running sum. The process's resident memory is no such measure: it holds what malloc keeps of earlier work, and it varies
by a tenth from step to step. What the kernels' libraries allocate for themselves (oneDNN's reordered copies) is in
neither of PyTorch's figures. On a GPU the caching allocator keeps the peak itself.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Callable
from typing import Final

import torch
from torch.optim import Optimizer
from torch.profiler import ProfilerActivity, profile

from gesturepose.bench.trainings import step
from gesturepose.experiment import Training
from gesturepose.structures import ClipBatch

MIB: Final = 2.0**20
_SILENT: Final = "99"


def peak_bytes(work: Callable[[], object], device: torch.device) -> int:
    """The most that `work` has allocated at once, beyond what was there when it began.

    On a CPU, what `work` releases of earlier allocations does not count; on a GPU it does.
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    os.environ.setdefault("KINETO_LOG_LEVEL", _SILENT)  # read at the profiler's first use, which writes to stderr
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        work()
    results = profiled.profiler.kineto_results
    changes = [event.nbytes() for event in results.events() if event.name() == "[memory]"]
    allocated = highest = 0
    for change in changes:
        allocated += change
        highest = max(highest, allocated)
    return highest


def step_mib(training: Training, batch: ClipBatch) -> float:
    """Peak memory of a training step in MiB: weights, buffers, Adam's moments, gradients, activations, scratch.

    The batch's own pixels and labels, which are there before, are left out.
    """
    allocate_moments(training.optimiser)
    training.optimiser.zero_grad(set_to_none=True)
    peak = peak_bytes(step(training, batch), training.execution.device)
    return (state_bytes(training) + peak) / MIB


def state_bytes(training: Training) -> int:
    """What a training holds between two steps, gradients left out."""
    network, optimiser = training.network, training.optimiser
    moments = [
        value for state in optimiser.state.values() for value in state.values() if isinstance(value, torch.Tensor)
    ]
    tensors = [*network.parameters(), *network.buffers(), *moments]
    return sum(tensor.numel() * tensor.element_size() for tensor in {id(tensor): tensor for tensor in tensors}.values())


def allocate_moments(optimiser: Optimizer) -> None:
    """Let Adam have its moments, as it has from its first step on. Gradients of zero change no weight."""
    if optimiser.state:
        return
    for group in optimiser.param_groups:
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    optimiser.zero_grad(set_to_none=True)
