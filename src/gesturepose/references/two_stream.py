"""Two-stream networks (Simonyan & Zisserman, NIPS 2014), small: a ResNet on colour frames, one on stacks of flow.

Both are the ResNet of the collaborative network's trunk with the weights that it starts from (network.backbone, stages
and weights), so that no row has a better start than another. A clip's frames vote by the mean of their logits (TSN,
Wang et al., ECCV 2016). Without the original's dropout: its draws would depend on where a training was interrupted.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn

from gesturepose.data.prepared import OUTSIDE
from gesturepose.models.trunk import Trunk
from gesturepose.references.flow import STACK
from gesturepose.structures import Predictions, precise

_FLOW_STD = 16.0  # codes of flow; about 1.6 % of the crop's side a frame


class StreamNetwork(nn.Module):
    """A ResNet on single frames, or on what stands for them, and the mean of the frames' logits.

    Args:
        stem, stages: of a torchvision ResNet, as in `Trunk`.
        width: channels of the last stage's maps.
        mean, std: of the input's channels, by which it is normalised.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, stem: nn.Module, stages: nn.ModuleList, *, width: int, gestures: int, mean: Tensor, std: Tensor
    ) -> None:
        super().__init__()
        self.register_buffer("mean", mean, persistent=False)
        self.register_buffer("std", std, persistent=False)
        self.stem = stem
        self.stages = stages
        self.classify = nn.Linear(width, gestures)

    def forward(self, video: Tensor, frame_valid: Tensor) -> Tensor:
        """[B, T, C, H, W], 0–255, and which frames count [B, T] → logits [B, A]."""
        x = self.stem((precise(video.flatten(0, 1)) - self.mean) / self.std)
        for stage in self.stages:
            x = stage(x)
        frame_logits = precise(self.classify(x.mean(dim=(2, 3)))).unflatten(0, frame_valid.shape)
        valid = frame_valid[..., None]
        count = valid.sum(dim=1).clamp(min=1)
        return torch.where(valid, frame_logits, 0.0).sum(dim=1) / count


def colour_stream(trunk: Trunk, *, gestures: int) -> StreamNetwork:
    """The spatial stream: `trunk`'s ResNet, which it takes over, on RGB frames [B, T, 3, H, W]."""
    return StreamNetwork(
        trunk.stem, trunk.stages, width=_width(trunk), gestures=gestures, mean=trunk.mean, std=trunk.std
    )


def flow_stream(trunk: Trunk, *, gestures: int) -> StreamNetwork:
    """The temporal stream: `trunk`'s ResNet, which it takes over, on `FlowStacks` [B, T, 2·STACK, H, W].

    The first convolution is widened: each map of flow has the mean of the colours' weights (TSN, Sec. 3.2).
    """
    stem = trunk.stem
    old = stem[0]
    assert isinstance(old, nn.Conv2d)
    wide = nn.Conv2d(2 * STACK, old.out_channels, kernel_size=7, stride=2, padding=3, bias=False)
    with torch.no_grad():
        wide.weight.copy_(old.weight.mean(dim=1, keepdim=True).expand_as(wide.weight))
    return StreamNetwork(
        nn.Sequential(wide, *stem[1:]),
        trunk.stages,
        width=_width(trunk),
        gestures=gestures,
        mean=torch.tensor(float(OUTSIDE)),
        std=torch.tensor(_FLOW_STD),
    )


def both_streams(colour: Predictions, flow: Predictions) -> Predictions:
    """The two streams' answers to the same videos: the mean of their softmax scores, without training of its own.

    Its logits are the logarithms of that mean.
    """
    scores = [torch.softmax(torch.from_numpy(of_stream.logits).double(), dim=1) for of_stream in (colour, flow)]
    logarithms = torch.stack(scores).mean(dim=0).clamp(min=1e-300).log()
    return replace(colour, logits=logarithms.numpy().astype(np.float32))


def _width(trunk: Trunk) -> int:
    first = trunk.head[0].up
    assert isinstance(first, nn.ConvTranspose2d)
    return first.in_channels
