"""The collaborative network: `forward` is the paper's Fig. 1."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

import torch
import torchvision
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gesturepose.models.gesture import GestureMaps, GestureSubNetwork, MultiOrderRelation
from gesturepose.models.pointwise import PointwiseMap
from gesturepose.models.pose import PoseSubNetwork
from gesturepose.models.trunk import HeatmapNetwork, Trunk
from gesturepose.params import HEATMAP_STRIDE, NetworkSettings
from gesturepose.skeleton import HAND_PARTS, JOINTS
from gesturepose.structures import IterationOutput


@dataclass(frozen=True)
class RoundMaps:
    """Everything linear of one round, composed up to the non-linear layers that read it."""

    head_to_hidden: PointwiseMap  # of the trunk's head
    head_to_depth: PointwiseMap
    head_to_aggregated: PointwiseMap
    gesture_to_hidden: PointwiseMap | None  # of 𝒢 of the round before; None in the first
    gesture_to_depth: PointwiseMap | None
    heatmaps_to_depth: PointwiseMap
    heatmaps_to_aggregated: PointwiseMap
    depth_to_aggregated: PointwiseMap


class Iteration(nn.Module):
    """One round of stages 2–4 of Sec. 3.1."""

    def __init__(self, pose: PoseSubNetwork, gesture: GestureSubNetwork, *, channels: int) -> None:
        super().__init__()
        self.pose = pose
        # Stage 3: 1×1(𝒥) + 1×1(𝒫), one 1×1 on both.
        self.to_gesture = nn.Conv2d(2 * channels, channels, kernel_size=1)
        self.gesture = gesture
        self.channels = channels

    def round_maps(self, to_joints: PointwiseMap, to_pose: PointwiseMap | None) -> RoundMaps:
        """`to_joints`: head → 𝒥. `to_pose`: 𝒥 and 𝒢 → features, stage 5; None in the first round, which reads 𝒥."""
        pose = self.pose.pointwise_maps()
        joints_to_aggregated, pose_to_aggregated = PointwiseMap.of(self.to_gesture).split(self.channels, self.channels)
        head_to_features, gesture_to_hidden, gesture_to_depth = to_joints, None, None
        if to_pose is not None:
            joints_to_features, gesture_to_features = to_pose.split(self.channels, self.channels)
            head_to_features = joints_to_features.after(to_joints)
            # The biases are in the head's maps.
            gesture_to_hidden = pose.features_to_hidden.without_bias().after(gesture_to_features)
            gesture_to_depth = pose.features_to_depth.without_bias().after(gesture_to_features)
        return RoundMaps(
            head_to_hidden=pose.features_to_hidden.after(head_to_features),
            head_to_depth=pose.features_to_depth.after(head_to_features),
            head_to_aggregated=(joints_to_aggregated + pose_to_aggregated.after(pose.joints_to_pose)).after(to_joints),
            gesture_to_hidden=gesture_to_hidden,
            gesture_to_depth=gesture_to_depth,
            heatmaps_to_depth=pose.heatmaps_to_depth,
            heatmaps_to_aggregated=pose_to_aggregated.after(pose.heatmaps_to_pose),
            depth_to_aggregated=pose_to_aggregated.after(pose.depth_to_pose),
        )

    def forward(
        self, maps: RoundMaps, head: Tensor, gesture_maps: GestureMaps | None, frame_valid: Tensor
    ) -> tuple[IterationOutput, GestureMaps]:
        """The trunk's head [B·T, head, H, W], 𝒢 of the round before, [B, T] → outputs, and this round's 𝒢."""
        hidden, depth_input = maps.head_to_hidden(head), maps.head_to_depth(head)
        if maps.gesture_to_hidden is not None and maps.gesture_to_depth is not None and gesture_maps is not None:
            hidden = hidden + gesture_maps.read(maps.gesture_to_hidden)
            depth_input = depth_input + gesture_maps.read(maps.gesture_to_depth)
        heatmaps = self.pose.heatmaps(hidden)
        depth_rel = self.pose.depths(depth_input + maps.heatmaps_to_depth(heatmaps))
        aggregated = maps.head_to_aggregated(head) + maps.heatmaps_to_aggregated(heatmaps)
        aggregated = aggregated + maps.depth_to_aggregated(depth_rel[:, :, None, None])
        gesture_maps, logits = self.gesture(aggregated, frame_valid)
        clips = frame_valid.shape
        return IterationOutput(heatmaps.unflatten(0, clips), depth_rel.unflatten(0, clips), logits), gesture_maps


class CollaborativeNetwork(nn.Module):
    """Trunk once, then iterations that pass 𝒫 and 𝒢 to and fro.

    What stands in the paper's Fig. 1 as chains and sums of 1×1 convolutions is composed first (see `pointwise`); 𝒥, 𝒫
    and the features of later iterations are never built. The network that builds them is `bench.plain`, and the tests
    hold both equal.

    Args:
        iterations: one module for each iteration, or a single one that is used `rounds` times.
        to_pose: stage 5, one for each passage from an iteration to the next (or a single shared one).

    Attributes:
        checkpointed: keep no activations of the iterations for the backward pass, compute them again there.
    """

    def __init__(self, trunk: Trunk, iterations: nn.ModuleList, to_pose: nn.ModuleList, *, rounds: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.iterations = iterations
        self.to_pose = to_pose
        self.rounds = rounds
        self.checkpointed = False

    def forward(self, video: Tensor, frame_valid: Tensor) -> list[IterationOutput]:
        """Frames [B, T, 3, H, W] (RGB, 0–255) and which of them count [B, T] → one output an iteration."""
        head = self.trunk(video.flatten(0, 1))
        with torch.autocast(head.device.type, enabled=False):  # matrices are not composed in bf16
            maps = self._round_maps()
        outputs, gesture_maps = [], None
        for number in range(self.rounds):
            iteration = self.iterations[number % len(self.iterations)]
            if self.checkpointed and torch.is_grad_enabled():
                output, gesture_maps = checkpoint(
                    iteration,
                    maps[number],
                    head,
                    gesture_maps,
                    frame_valid,
                    use_reentrant=False,
                    context_fn=partial(_computed_twice, iteration),
                )
            else:
                output, gesture_maps = iteration(maps[number], head, gesture_maps, frame_valid)
            outputs.append(output)
        return outputs

    def _round_maps(self) -> list[RoundMaps]:
        to_joints = PointwiseMap.of(self.trunk.to_joints)
        maps = []
        for number in range(self.rounds):
            passage = PointwiseMap.of(self.to_pose[(number - 1) % len(self.to_pose)]) if number else None
            iteration = self.iterations[number % len(self.iterations)]
            assert isinstance(iteration, Iteration)
            maps.append(iteration.round_maps(to_joints, passage))
        return maps


def _computed_twice(module: nn.Module) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
    """Contexts of a checkpointed module's forward pass and of its repetition."""
    return nullcontext(), _without_statistics(module)


@contextmanager
def _without_statistics(module: nn.Module) -> Iterator[None]:
    """Batch normalisations count no batch into their running statistics: the repetition is not another batch."""
    norms = [child for child in module.modules() if isinstance(child, nn.BatchNorm2d | nn.SyncBatchNorm)]
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        assert norm.num_batches_tracked is not None
        norm.momentum, norm.num_batches_tracked = 0.0, norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count


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
