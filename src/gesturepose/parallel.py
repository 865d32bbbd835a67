"""Several processes on one optimisation, as `torchrun` starts them: PyTorch's distributed engine, whole-batch sums.

Each process takes its share of every batch. Batch normalisation and the denominators of the losses are those of the
whole batch, so that a training does not depend on how many processes it has, rounding aside.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gesturepose.errors import InputError
from gesturepose.structures import precise

_CPU: Final = torch.device("cpu")


@dataclass(frozen=True)
class World:
    """The processes that train together, and which of them this is."""

    rank: int = 0
    size: int = 1
    device: torch.device = _CPU  # where what they exchange has to lie

    @property
    def leads(self) -> bool:
        """True in the one process that writes, logs and reports."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """The sum of `value` over the processes, without a gradient."""
        if self.size == 1:
            return value
        total = value.detach().to(self.device, copy=True)
        dist.all_reduce(total)
        return total.to(value.device)

    def from_leader(self, value: Any) -> Any:
        """What the leading process holds, a plain value."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def share(self, count: int, what: str) -> slice:
        """This process's part of a batch of `count` clips.

        Raises:
            InputError: the batch cannot be divided evenly; `what` names the setting.
        """
        if count % self.size:
            raise InputError(
                f"{what} of {count} clips cannot be divided evenly among {self.size} processes",
                hint="Choose another number of processes.",
            )
        part = count // self.size
        return slice(self.rank * part, (self.rank + 1) * part)


ALONE = World()


@contextmanager
def processes(*, on_gpu: bool) -> Iterator[World]:
    """Join the other processes of the `torchrun` that started this one; alone without it.

    Each process on a GPU takes the one of its local rank.

    Raises:
        InputError: there are more processes on this machine than GPUs.
    """
    if not dist.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        yield ALONE
        return
    device = _CPU
    if on_gpu:
        local_rank, gpus = int(os.environ["LOCAL_RANK"]), torch.cuda.device_count()
        if local_rank >= gpus:
            raise InputError(
                f"{os.environ['LOCAL_WORLD_SIZE']} processes on this machine, but {gpus} GPUs",
                hint="Give torchrun --nproc-per-node at most the number of GPUs, or set runtime.device: cpu.",
            )
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


def replicated(network: nn.Module, world: World, device: torch.device) -> nn.Module:
    """`network` for training with the other processes: call the result, keep `network` for its weights.

    Its batch normalisations are replaced in place by ones over the whole batch, with the same parameters and names.
    """
    if world.size == 1:
        return network
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(network)
    else:
        _convert(network, world)
    return DistributedDataParallel(network)


class WholeBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the batches of all processes; `nn.SyncBatchNorm`, its like, runs on GPUs alone."""

    world: World = ALONE

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W], this process's part of the batch, normalised by the whole batch's statistics."""
        if not self.training:
            return super().forward(x)
        values = precise(x)
        count = self.world.sum(values.new_tensor(float(x.numel() // x.shape[1])))
        mean = _sum(values.sum(dim=(0, 2, 3))) / count
        centred = values - mean[:, None, None]
        variance = _sum(centred.square().sum(dim=(0, 2, 3))) / count
        if self.track_running_stats:
            with torch.no_grad():
                assert self.running_mean is not None and self.running_var is not None
                assert self.num_batches_tracked is not None and self.momentum is not None
                self.num_batches_tracked.add_(1)
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
                unbiased = variance * (count / (count - 1))
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        scale = torch.rsqrt(variance + self.eps) * self.weight
        return (centred * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype)


class _SumOverProcesses(torch.autograd.Function):
    """The sum over the processes; what each adds to it has the gradients of all of them."""

    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        dist.all_reduce(total)
        return total


def _sum(value: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(value)
    return total


def _convert(module: nn.Module, world: World) -> None:
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            whole = WholeBatchNorm2d(child.num_features, child.eps, child.momentum)
            whole.weight, whole.bias, whole.world = child.weight, child.bias, world
            for buffer_name, buffer in child.named_buffers():
                setattr(whole, buffer_name, buffer)
            setattr(module, name, whole)
        else:
            _convert(child, world)
