"""The collaborative network: `forward` is the paper's Fig. 1."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn

from gesturepose.models.gesture import GestureSubNetwork, MultiOrderRelation
from gesturepose.models.pose import PoseSubNetwork
from gesturepose.models.trunk import HeatmapNetwork, Trunk
from gesturepose.params import HEATMAP_STRIDE, NetworkSettings
from gesturepose.skeleton import HAND_PARTS, JOINTS
from gesturepose.structures import IterationOutput


class Iteration(nn.Module):
    """One round of stages 2–4 of Sec. 3.1."""

    def __init__(self, pose: PoseSubNetwork, gesture: GestureSubNetwork, *, channels: int) -> None:
        super().__init__()
        self.pose = pose
        # Stage 3: 1×1(𝒥) + 1×1(𝒫), one 1×1 on both.
        self.to_gesture = nn.Conv2d(2 * channels, channels, kernel_size=1)
        self.gesture = gesture

    def forward(self, features: Tensor, joint_maps: Tensor, frame_valid: Tensor) -> tuple[IterationOutput, Tensor]:
        """Features and 𝒥 [B·T, J·C, H, W], [B, T] → what the iteration says, and 𝒢 [B·T, J·C, H, W]."""
        heatmaps, depth_rel, pose_maps = self.pose(features, joint_maps)
        aggregated = self.to_gesture(torch.cat([joint_maps, pose_maps], dim=1))
        gesture_maps, logits = self.gesture(aggregated, frame_valid)
        clips = frame_valid.shape
        return IterationOutput(heatmaps.unflatten(0, clips), depth_rel.unflatten(0, clips), logits), gesture_maps


class CollaborativeNetwork(nn.Module):
    """Trunk once, then iterations that pass 𝒫 and 𝒢 to and fro.

    Args:
        iterations: one module for each iteration, or a single one that is used `rounds` times.
        to_pose: stage 5, one for each passage from an iteration to the next (or a single shared one).
    """

    def __init__(self, trunk: Trunk, iterations: nn.ModuleList, to_pose: nn.ModuleList, *, rounds: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.iterations = iterations
        self.to_pose = to_pose
        self.rounds = rounds

    def forward(self, video: Tensor, frame_valid: Tensor) -> list[IterationOutput]:
        """Frames [B, T, 3, H, W] (RGB, 0–255) and which of them count [B, T] → one output an iteration."""
        joint_maps = self.trunk(video.flatten(0, 1))  # 𝒥
        features = joint_maps
        outputs = []
        for number in range(self.rounds):
            iteration = self.iterations[number % len(self.iterations)]
            output, gesture_maps = iteration(features, joint_maps, frame_valid)
            outputs.append(output)
            if number + 1 < self.rounds:
                passage = self.to_pose[number % len(self.to_pose)]
                features = passage(torch.cat([joint_maps, gesture_maps], dim=1))
        return outputs


def build_trunk(settings: NetworkSettings) -> Trunk:
    """A trunk with random weights."""
    resnet = torchvision.models.get_model(settings.backbone, weights=None)
    return Trunk(
        resnet,
        head_channels=settings.head_channels,
        out_channels=JOINTS * settings.channels,
        stages=settings.stages,
        lateral=settings.lateral,
    )


def build_heatmap_network(settings: NetworkSettings, trunk: Trunk) -> HeatmapNetwork:
    """The network of the fine-tuning stage around `trunk`."""
    return HeatmapNetwork(trunk, joint_channels=JOINTS * settings.channels, joints=JOINTS)


def build_network(settings: NetworkSettings, trunk: Trunk, *, gestures: int, image_size: int) -> CollaborativeNetwork:
    """The network around `trunk`, for crops of `image_size` px and `gestures` classes; every size is fixed here."""
    channels = JOINTS * settings.channels
    modules = 1 if settings.share_iterations else settings.iterations
    iterations = nn.ModuleList(
        Iteration(
            PoseSubNetwork(
                channels=channels,
                joints=JOINTS,
                heatmap_size=image_size // HEATMAP_STRIDE,
                depth_head=settings.depth_head,
                hidden_channels=settings.head_channels,
            ),
            GestureSubNetwork(
                MultiOrderRelation(
                    parts=HAND_PARTS[settings.palm],
                    channels=settings.channels,
                    gestures=gestures,
                    streams=settings.streams,
                    multi_scale=settings.multi_scale,
                    grid=settings.tcn_grid,
                    tcn_layers=settings.tcn_layers,
                    tcn_width=settings.tcn_width,
                    detach_slow_fast=settings.detach_slow_fast,
                ),
                joints=JOINTS,
                channels=settings.channels,
                layers=settings.gesture_layers,
            ),
            channels=channels,
        )
        for _ in range(modules)
    )
    passages = min(settings.iterations - 1, modules)
    to_pose = nn.ModuleList(nn.Conv2d(2 * channels, channels, kernel_size=1) for _ in range(passages))
    return CollaborativeNetwork(trunk, iterations, to_pose, rounds=settings.iterations)
