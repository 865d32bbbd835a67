"""Batches where the network is, before it asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from gesturepose.data.clips import BatchLoader
from gesturepose.data.prepared import PreparedData
from gesturepose.structures import ClipBatch

_SHARE_OF_MEMORY = 0.5  # of the GPU's free memory, which the frames may take


def resident_pixels(data: PreparedData, device: torch.device) -> Tensor | None:
    """All frames [F, S, S, 3] on a GPU that has room for them: FPHA is 20.7 GB at 256². None elsewhere."""
    if device.type != "cuda" or data.frames.nbytes > _SHARE_OF_MEMORY * torch.cuda.mem_get_info(device)[0]:
        return None
    pixels = torch.empty(data.frames.shape, dtype=torch.uint8, device=device)
    for video in data.videos:  # in pieces: neither a second copy in memory nor one transfer of 20 GB
        rows = slice(video.start, video.start + video.frames)
        pixels[rows] = torch.from_numpy(data.frames[rows].copy()).to(device)
    return pixels


class Prefetched:
    """A loader whose next batch is read, into page-locked memory, while the present one is used.

    On the CPU that would only take the cores from the network, which is a hundred times slower than reading: there a
    batch is read when it is asked for.
    """

    def __init__(self, batches: BatchLoader, device: torch.device) -> None:
        self.batches = batches
        self.device = device

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[ClipBatch]:
        return iter(self.batches) if self.device.type == "cpu" else self.ahead()

    def ahead(self) -> Iterator[ClipBatch]:
        """The batches, each taken up one before it is needed."""
        source = iter(self.batches)
        with ThreadPoolExecutor(1, thread_name_prefix="batches") as reader:
            coming = reader.submit(self._next, source)
            while (batch := coming.result()) is not None:
                coming = reader.submit(self._next, source)
                yield batch.to(self.device)

    def _next(self, source: Iterator[ClipBatch]) -> ClipBatch | None:
        batch = next(source, None)
        if batch is None or self.device.type != "cuda":
            return batch
        return batch.pinned()
