"""How much the renderer computes at once: on a CPU what stays in its cache, on a GPU what keeps it busy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch

FRAMES_TOGETHER: Final = 4  # neighbouring frames that share what `renderer` decides by their fastest part


@dataclass(frozen=True)
class Batching:
    """Sizes of the batches; they change no bit of the result, since frames come in multiples of FRAMES_TOGETHER."""

    pixels: int  # of the frames rendered at once, which are FRAMES_TOGETHER at the least
    cones: int  # tiles marching at once, times their cones
    points: int  # points whose light is looked up at once, times cones; those of one frame at the least

    def frames(self, height: int, width: int) -> int:
        """Frames of height × width px a batch."""
        return max(self.pixels // (FRAMES_TOGETHER * height * width), 1) * FRAMES_TOGETHER


CPU: Final = Batching(pixels=0, cones=4096, points=0)
# A GPU waits for its kernels' starts: few, large ones. 62 frames of 480×270 px took less than 2 GB in a CPU's memory.
CUDA: Final = Batching(pixels=1 << 23, cones=1 << 18, points=1 << 23)


def batching_on(device: torch.device) -> Batching:
    """The sizes that suit a device."""
    return CPU if device.type == "cpu" else CUDA
