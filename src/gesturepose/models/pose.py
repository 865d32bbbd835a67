"""The pose sub-network: features → heatmaps, depths and pose-optimised maps 𝒫 (Sec. 3.1, stage 2)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from gesturepose.models.pointwise import PointwiseMap
from gesturepose.models.trunk import start_near_zero

DepthHead = Literal["light", "residual"]


class PoseSubNetwork(nn.Module):
    """2D heatmaps, then depths from the features with the heatmaps, then 𝒫 from both and 𝒥.

    What is linear about it at each pixel are `pointwise_maps`, which the network composes with those before and after.
    """

    def __init__(
        self, *, channels: int, joints: int, heatmap_size: int, depth_head: DepthHead, hidden_channels: int
    ) -> None:
        super().__init__()
        self.to_heatmaps = nn.Sequential(
            nn.Conv2d(channels, hidden_channels, kernel_size=1, bias=False),
            nn.BatchNorm2d(hidden_channels),
            nn.ReLU(inplace=True),
            nn.Conv2d(hidden_channels, joints, kernel_size=1),
        )
        build = {"light": _light_depth_head, "residual": _residual_depth_head}[depth_head]
        width, self.depth_head = build(joints, heatmap_size, hidden_channels)
        # "1×1 convolution by a summation operation": 1×1(features) + 1×1(heatmaps) is one 1×1 on both.
        self.to_depth_input = nn.Conv2d(channels + joints, width, kernel_size=1)
        self.to_pose_maps = nn.Conv2d(joints + channels, channels, kernel_size=1)
        # A depth repeated over H×W and mapped by a 1×1 is one number a channel: a Linear, added as a bias.
        self.depth_to_pose_maps = nn.Linear(joints, channels, bias=False)
        self.sources = (channels, joints)
        start_near_zero(self.to_heatmaps[-1])
        start_near_zero(self.depth_head[-1])

    def pointwise_maps(self) -> PosePointwiseMaps:
        """The linear maps around the sub-network's non-linear layers."""
        channels, joints = self.sources
        features_to_depth, heatmaps_to_depth = PointwiseMap.of(self.to_depth_input).split(channels, joints)
        heatmaps_to_pose, joints_to_pose = PointwiseMap.of(self.to_pose_maps).split(joints, channels)
        return PosePointwiseMaps(
            features_to_hidden=PointwiseMap.of(self.to_heatmaps[0]),
            features_to_depth=features_to_depth,
            heatmaps_to_depth=heatmaps_to_depth,
            heatmaps_to_pose=heatmaps_to_pose,
            joints_to_pose=joints_to_pose,
            depth_to_pose=PointwiseMap(self.depth_to_pose_maps.weight),
        )

    def heatmaps(self, hidden: Tensor) -> Tensor:
        """`features_to_hidden`'s output [N, hidden, H, W] → heatmaps [N, J, H, W]."""
        return self.to_heatmaps[1:](hidden)

    def depths(self, depth_input: Tensor) -> Tensor:
        """`features_to_depth` + `heatmaps_to_depth` [N, width, H, W] → root-relative depths [N, J], 100 mm."""
        depth = self.depth_head(depth_input)
        return depth - depth[:, :1]  # the wrist is the root


@dataclass(frozen=True)
class PosePointwiseMaps:
    """The linear maps of a pose sub-network; the bias of each sum stands with one of its summands."""

    features_to_hidden: PointwiseMap  # what the heatmaps' non-linear layers read
    # The summands of what the depths' non-linear layers read:
    features_to_depth: PointwiseMap
    heatmaps_to_depth: PointwiseMap
    # The summands of 𝒫:
    heatmaps_to_pose: PointwiseMap
    joints_to_pose: PointwiseMap
    depth_to_pose: PointwiseMap  # of the depths, one number a joint for the whole map


def _light_depth_head(joints: int, heatmap_size: int, width: int) -> tuple[int, nn.Sequential]:
    """Stride-2 convolutions down to about 4×4, then one fully connected layer: 0.3–0.45 GMAC a frame at 64×64."""
    halvings = max(1, int(math.log2(heatmap_size)) - 2)
    layers: list[nn.Module] = [nn.ReLU(inplace=True)]
    size = heatmap_size
    for _ in range(halvings):
        layers += [
            nn.Conv2d(width, width, kernel_size=3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
        size = (size + 1) // 2
    return width, nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * size * size, joints))


def _residual_depth_head(joints: int, heatmap_size: int, width: int) -> tuple[int, nn.Sequential]:
    """The depth module of the paper's references [18, 37]: four times two residual blocks and a max-pooling, then a
    fully connected layer; 2.3 GMAC a frame at 64×64 and 256 channels."""
    layers: list[nn.Module] = []
    size = heatmap_size
    for _ in range(4):
        layers += [_ResidualBlock(width), _ResidualBlock(width)]
        if size > 1:
            layers.append(nn.MaxPool2d(kernel_size=2, stride=2))
            size //= 2
    return width, nn.Sequential(*layers, nn.Flatten(), nn.Linear(width * size * size, joints))


class _ResidualBlock(nn.Module):
    """The pre-activation bottleneck of stacked hourglasses."""

    def __init__(self, width: int) -> None:
        super().__init__()
        narrow = max(1, width // 2)
        self.body = nn.Sequential(
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, narrow, kernel_size=1, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(inplace=True),
            nn.Conv2d(narrow, narrow, kernel_size=3, padding=1, bias=False),
            nn.BatchNorm2d(narrow),
            nn.ReLU(inplace=True),
            nn.Conv2d(narrow, width, kernel_size=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)
