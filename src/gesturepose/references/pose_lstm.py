"""Gestures from 3D hand poses alone: one LSTM layer, the baseline of FPHA (Garcia-Hernando et al., CVPR 2018).

A clip is K frames of K segments, as for every other network here, and not the whole video: the rows of a table then
differ in what a network reads and not in how its frames are drawn, trained on and averaged.

The poses are the annotations, or those that a pose network predicts; FPHA's 72.06 % is of predicted ones.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from gesturepose.data.prepared import PreparedData
from gesturepose.errors import InputError
from gesturepose.params import AugmentSettings
from gesturepose.references.gesture_only import rows_of
from gesturepose.skeleton import JOINTS, WRIST
from gesturepose.structures import DEPTH_UNIT_MM, ClipBatch, Predictions, precise

LSTM_WIDTH = 100  # numbers of the LSTM's state


class RecurrentClassifier(nn.Module):
    """An LSTM layer over the frames that count, and a linear layer on the mean of its states."""

    def __init__(self, features: int, *, width: int, gestures: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, width, batch_first=True)
        self.classify = nn.Linear(width, gestures)

    def forward(self, features: Tensor, frame_valid: Tensor) -> Tensor:
        """[B, T, F] and which frames count [B, T] → logits [B, A]; what does not count may hold anything.

        The frames that count go first, in their order. The LSTM looks back alone, so what comes after them has no
        influence on their states: padding is as good as packing, and needs no lengths on the CPU.
        """
        order = torch.argsort((~frame_valid).to(torch.uint8), dim=1, stable=True)
        valid = frame_valid.gather(1, order)[..., None]
        with torch.autocast(features.device.type, enabled=False):  # sums over many frames do not live in bf16
            values = torch.where(frame_valid[..., None], precise(features), 0.0)
            states, _ = self.lstm(values.gather(1, order[..., None].expand_as(values)))
            count = valid.sum(dim=1).clamp(min=1)
            logits: Tensor = self.classify(torch.where(valid, states, 0.0).sum(dim=1) / count)
        return logits


class PoseLstm(nn.Module):
    """3D joints relative to the wrist, in units of 100 mm, through a `RecurrentClassifier`."""

    def __init__(self, gestures: int) -> None:
        super().__init__()
        self.classifier = RecurrentClassifier(3 * (JOINTS - 1), width=LSTM_WIDTH, gestures=gestures)

    def forward(self, joints_mm: Tensor, frame_valid: Tensor) -> Tensor:
        """Poses [B, T, J, 3] in mm and which frames count [B, T] → logits [B, A]; a frame with a NaN does not count."""
        known = torch.isfinite(joints_mm).all(dim=-1).all(dim=-1)
        relative = (joints_mm - joints_mm[..., WRIST : WRIST + 1, :]) / DEPTH_UNIT_MM
        fingers = torch.cat([relative[..., :WRIST, :], relative[..., WRIST + 1 :, :]], dim=-2)
        logits: Tensor = self.classifier(fingers.flatten(2), frame_valid & known)
        return logits


class FramePoses:
    """The poses of `data`'s frames: a `FrameInput` [B, T, J, 3], mm."""

    def __init__(self, data: PreparedData, joints_mm: NDArray[np.float32]) -> None:
        self.data = data
        self.joints_mm = joints_mm  # [F, J, 3], NaN where nothing is known

    @classmethod
    def annotated(cls, data: PreparedData) -> FramePoses:
        """The annotations."""
        return cls(data, data.joints_cam_mm)

    @classmethod
    def predicted(cls, data: PreparedData, *predictions: Predictions) -> FramePoses:
        """What a network says of the videos in `predictions`; NaN for all others.

        Raises:
            InputError: a video is not in `data`, or has another number of frames there.
        """
        joints_mm = np.full_like(data.joints_cam_mm, np.nan)
        videos = {video.key: video for video in data.videos}
        for of_split in predictions:
            for position, key in enumerate(map(str, of_split.keys)):
                chosen = of_split.video_of_frame == position
                if key not in videos or videos[key].frames != int(chosen.sum()):
                    raise InputError(
                        f"the predictions' video {key} is not that of the prepared data",
                        file=data.folder,
                        hint="Predict and train on the same data.",
                    )
                joints_mm[videos[key].start + of_split.frame[chosen]] = of_split.joints_cam_mm[chosen]
        return cls(data, joints_mm)

    def __call__(self, video_index: Tensor, frame_index: Tensor) -> Tensor:
        return torch.from_numpy(self.joints_mm[rows_of(self.data, video_index, frame_index)])

    def augment(self, batch: ClipBatch, settings: AugmentSettings, *, seed: int, epoch: int) -> ClipBatch:
        """As it is: the changes are of pictures."""
        return batch
