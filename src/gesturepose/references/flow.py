"""Optical flow between consecutive crops, computed once, and the stacks of it that a temporal stream reads.

Flow is stored as 8-bit pictures, as Simonyan & Zisserman (NIPS 2014, Sec. 5) do: 128 is no motion, the least and the
greatest value are −`LARGEST` and `LARGEST` of the crop's side. Where a video's frames share one box (prepare.crop:
clip), it is the motion of the picture; with a box for each frame, the box's own motion is taken out of it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from gesturepose.data.augment import Augmentation, warp_video
from gesturepose.data.prepared import OUTSIDE, PreparedData, Video
from gesturepose.errors import InputError
from gesturepose.params import AugmentSettings
from gesturepose.references.gesture_only import rows_of
from gesturepose.structures import ClipBatch

STACK: Final = 5  # consecutive flows that a frame is seen with; Simonyan & Zisserman take 10 of longer videos
LARGEST: Final = 0.125  # of the crop's side a frame; more is cut off
_STEPS: Final = 127  # codes on either side of 128


def flow_codes(frames: NDArray[np.uint8], readable: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """RGB frames [T, S, S, 3] of one video → [T, S, S, 2] codes of the flow (u, v) from each frame to the next.

    The last frame, and a pair of which one could not be read, have none: 128.
    """
    count, size = frames.shape[:2]
    codes = np.full((count, size, size, 2), OUTSIDE, dtype=np.uint8)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    for number in range(count - 1):
        if readable[number] and readable[number + 1]:
            flow_px = farneback(grey[number], grey[number + 1])
            scaled = np.clip(flow_px / (LARGEST * size), -1.0, 1.0)
            codes[number] = np.rint(OUTSIDE + _STEPS * scaled).astype(np.uint8)
    return codes


def farneback(grey: NDArray[np.uint8], following: NDArray[np.uint8]) -> NDArray[np.float32]:
    """[S, S] twice → the flow [S, S, 2] in px a frame (Farnebäck, SCIA 2003)."""
    window = max(7, grey.shape[0] // 5)
    flow: NDArray[np.float32] = cv2.calcOpticalFlowFarneback(
        grey,
        following,
        None,  # type: ignore[call-overload]
        pyr_scale=0.5,
        levels=3,
        winsize=window,
        iterations=3,
        poly_n=5,
        poly_sigma=1.1,
        flags=0,
    )
    return flow


def write_flow(data: PreparedData, path: Path, *, workers: int) -> None:
    """Write the codes of all of `data`'s frames, uint8 [F, S, S, 2], with `workers` threads; any number gives the same.

    Raises:
        InputError: the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        codes = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=(*data.frames.shape[:3], 2))

        def compute(video: Video) -> None:
            rows = slice(video.start, video.start + video.frames)
            codes[rows] = flow_codes(data.frames[rows], data.readable[rows])

        with ThreadPoolExecutor(workers) as pool:
            for _ in tqdm(pool.map(compute, data.videos), total=len(data.videos), desc="flow", disable=None):
                pass
        codes.flush()
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"cannot be written: {error.strerror}", file=path, hint="Free some space.") from None


class FlowStacks:
    """The flows of `STACK` frames from each frame on: a `FrameInput` uint8 [B, T, 2·STACK, S, S] (u, v, u, v, …).

    Past a video's last flow that one is repeated.
    """

    def __init__(self, data: PreparedData, codes: NDArray[np.uint8]) -> None:
        self.data = data
        self.codes = codes

    @classmethod
    def open(cls, path: Path, data: PreparedData) -> FlowStacks:
        """What `write_flow` wrote of `data`, memory-mapped.

        Raises:
            InputError: no such file, or not of this data.
        """
        hint = "The flow stage of the ablation pipeline writes it."
        try:
            codes = np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise InputError("no such file", file=path, hint=hint) from None
        except (ValueError, EOFError, OSError) as error:
            raise InputError(f"not a whole NumPy file: {error}", file=path, hint=hint) from None
        expected = (*data.frames.shape[:3], 2)
        if codes.shape != expected or codes.dtype != np.uint8:
            raise InputError(
                f"{codes.dtype} {list(codes.shape)}; by the prepared data it is uint8 {list(expected)}",
                file=path,
                hint=hint,
            )
        return cls(data, codes)

    def __call__(self, video_index: Tensor, frame_index: Tensor) -> Tensor:
        last = np.array([max(0, self.data.videos[number].frames - 2) for number in video_index.tolist()])
        first_rows = rows_of(self.data, video_index, torch.zeros_like(frame_index))
        frames = frame_index.numpy()[..., None] + np.arange(STACK)  # [B, T, L]
        rows = first_rows[..., None] + np.minimum(frames, last[:, None, None])
        stacks = torch.from_numpy(self.codes[rows])  # [B, T, L, S, S, 2]
        return stacks.permute(0, 1, 2, 5, 3, 4).flatten(2, 3)

    def augment(self, batch: ClipBatch, settings: AugmentSettings, *, seed: int, epoch: int) -> ClipBatch:
        """The same shift and scale of each clip as `augment` gives its pictures; vectors grow with the picture.

        Colours and blur have no part in it.
        """
        drawn = Augmentation.draw(settings, batch.video_index.tolist(), seed=seed, epoch=epoch).to(batch.video.device)
        sharp = replace(drawn, blur_sigma=torch.zeros_like(drawn.blur_sigma))
        frames, channels = batch.video.shape[1:3]
        maps = batch.video.flatten(1, 2)
        # `warp_video` treats all maps of a clip alike and takes them by threes.
        padded = F.pad(maps, (0, 0, 0, 0, 0, -maps.shape[1] % 3), value=OUTSIDE)
        warped = warp_video(padded.unflatten(1, (-1, 3)), sharp).flatten(1, 2)[:, : maps.shape[1]]
        grown = (warped - OUTSIDE) * drawn.scale[:, None, None, None] + OUTSIDE
        return replace(batch, video=grown.unflatten(1, (frames, channels)).clamp_(0.0, 255.0))
