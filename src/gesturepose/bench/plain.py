"""The network of Sec. 3 as one would write it first: what every speed is compared with, and what the tests hold it to.

Every 1×1 convolution is computed where the paper has it, on concatenated maps; 𝒥, 𝒫 and the features of each iteration
are built, depths are repeated over H×W, and five weighted copies of Zo go through five relation modules. The parameters
are those of the network that it is made of, so that both are one network computed in two ways: with the same outputs
and gradients, and with one training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gesturepose.models.collaborative import CollaborativeNetwork, Iteration
from gesturepose.models.gesture import MultiOrderRelation, RelationEmbedding, StreamTcn
from gesturepose.models.pose import PoseSubNetwork
from gesturepose.models.trunk import Trunk
from gesturepose.structures import IterationOutput


class PlainNetwork(CollaborativeNetwork):
    """A `CollaborativeNetwork` of the very modules of another, with their names; only `forward` is its own."""

    def __init__(self, network: CollaborativeNetwork) -> None:
        super().__init__(network.trunk, network.iterations, network.to_pose, rounds=network.rounds)
        iteration = network.iterations[0]
        assert isinstance(iteration, Iteration)
        self.parts = [column.nonzero().flatten().tolist() for column in iteration.gesture.relation.parts_to_joints.T]
        self.train(network.training)

    def forward(self, video: Tensor, frame_valid: Tensor) -> list[IterationOutput]:
        """Frames [B, T, 3, H, W] (RGB, 0–255) and which of them count [B, T] → one output an iteration."""
        clips = frame_valid.shape
        joint_maps = plain_trunk(self.trunk, video.flatten(0, 1))  # 𝒥 [B·T, J·C, H/4, W/4]
        features = joint_maps
        outputs = []
        for number in range(self.rounds):
            iteration = self.iterations[number % len(self.iterations)]
            assert isinstance(iteration, Iteration)
            heatmaps, depth_rel, pose_maps = plain_pose(iteration.pose, features, joint_maps)
            aggregated = iteration.to_gesture(torch.cat([joint_maps, pose_maps], dim=1))
            by_joint = iteration.gesture.by_joint(aggregated)
            zero_order = by_joint.unflatten(1, (heatmaps.shape[1], -1)).unflatten(0, clips)  # Zo [B, T, J, C, H, W]
            gesture_maps, logits = plain_relation(iteration.gesture.relation, zero_order, frame_valid, self.parts)
            outputs.append(IterationOutput(heatmaps.unflatten(0, clips), depth_rel.unflatten(0, clips), logits))
            if number + 1 < self.rounds:
                passage = self.to_pose[number % len(self.to_pose)]
                features = passage(torch.cat([joint_maps, gesture_maps.flatten(2, 3).flatten(0, 1)], dim=1))
        return outputs


def plain_trunk(trunk: Trunk, frames: Tensor) -> Tensor:
    """[N, 3, H, W] RGB, 0–255 → 𝒥 [N, J·C, H/4, W/4]."""
    # The pixels come as they lie on disk, channels last: without a copy the whole trunk would follow that order.
    return trunk.to_joints(trunk(frames.contiguous()))


def plain_pose(pose: PoseSubNetwork, features: Tensor, joint_maps: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features of this iteration and 𝒥, both [N, J·C, H, W].

    Returns:
        heatmaps [N, J, H, W]; root-relative depth [N, J] in units of 100 mm, 0 at the wrist; 𝒫 [N, J·C, H, W].
    """
    heatmaps = pose.to_heatmaps(features)
    depth = pose.depth_head(pose.to_depth_input(torch.cat([features, heatmaps], dim=1)))
    depth_rel = depth - depth[:, :1]
    repeated = depth_rel[:, :, None, None].expand(-1, -1, *heatmaps.shape[-2:])
    weight = torch.cat([pose.to_pose_maps.weight, pose.depth_to_pose_maps.weight[:, :, None, None]], dim=1)
    pose_maps = F.conv2d(torch.cat([heatmaps, joint_maps, repeated], dim=1), weight, pose.to_pose_maps.bias)
    return heatmaps, depth_rel, pose_maps


def plain_relation(
    relation: MultiOrderRelation, zero_order: Tensor, frame_valid: Tensor, parts: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Sec. 3.2 and 3.3: Zo [B, T, J, C, H, W] and which frames count [B, T] → 𝒢 [B, T, J, C, H, W], logits [B, A].

    `parts` has the joints of each finger and of the palm, each joint once.
    """
    clips = frame_valid.shape
    part_of = {joint: part for part, members in enumerate(parts) for joint in members}
    parents = [part_of[joint] for joint in sorted(part_of)]
    gesture_maps, logits = [], []
    for number, copy in enumerate(stream_copies(relation, zero_order, frame_valid)):
        x = copy.flatten(0, 1)  # [N, J, C, H, W]
        if relation.multi_scale:
            level_1 = _related(x, relation.joint_relation, number)
            pooled = torch.stack([level_1[:, list(members)].mean(dim=1) for members in parts], dim=1)
            level_2 = _related(pooled, relation.part_relation, number)  # [N, P, C, H, W]
            level_3 = level_2.mean(dim=1)  # [N, C, H, W]
            x = level_1 + level_2[:, parents] + level_3[:, None]
        else:
            level_3 = x.mean(dim=1)
        gesture_maps.append(x.unflatten(0, clips))
        logits.append(_stream_logits(relation, level_3.unflatten(0, clips), frame_valid, number))
    return torch.stack(gesture_maps).mean(dim=0), torch.stack(logits).mean(dim=0)


def stream_copies(relation: MultiOrderRelation, zero_order: Tensor, frame_valid: Tensor) -> list[Tensor]:
    """Zo [B, T, J, C, H, W] → for each stream Zo times the joints' slow or fast weights, [B, T, J, C, H, W]."""
    if zero_order.shape[1] < 3:
        raise ValueError(f"second-order features (Eq. 4) need at least 3 frames a clip, got {zero_order.shape[1]}")
    first = zero_order[:, 1:] - zero_order[:, :-1]  # Fo_1 … Fo_{T−1}
    second = first[:, 1:] - first[:, :-1]  # So_1 … So_{T−2}
    first_valid = frame_valid[:, 1:] & frame_valid[:, :-1]
    second_valid = first_valid[:, 1:] & first_valid[:, :-1]
    copies = []
    for stream in relation.streams:
        if stream == "zero":
            copies.append(zero_order)
            continue
        order, pace = stream.split("_")
        difference, valid = (first, first_valid) if order == "first" else (second, second_valid)
        magnitude = difference.flatten(3).norm(dim=-1)  # FD
        if relation.detach_slow_fast:
            magnitude = magnitude.detach()
        # Fo and So begin with frame 1; So ends a frame early.
        magnitude = F.pad(magnitude, (0, 0, 1, 0 if order == "first" else 1))
        valid = F.pad(valid, (1, 0 if order == "first" else 1))
        copies.append(zero_order * _weights(_carried(magnitude, valid), pace)[..., None, None, None])
    return copies


def _weights(magnitude: Tensor, pace: str) -> Tensor:
    """FD [B, T, J] → the Gaussian around its least or greatest value over joints; 1 where nothing moves."""
    least, greatest = magnitude.amin(dim=-1, keepdim=True), magnitude.amax(dim=-1, keepdim=True)
    sigma = (greatest - least + 1e-3 * greatest) / 3
    sigma = torch.where(greatest > 0, sigma, 1.0)
    centre = least if pace == "slow" else greatest
    return torch.exp(-((magnitude - centre) ** 2) / (2 * sigma**2))


def _carried(values: Tensor, valid: Tensor) -> Tensor:
    """[B, T, J] where `valid` [B, T]; elsewhere the last valid one before, else the first one after, else 0."""
    last = first = torch.zeros_like(values[:, 0])
    seen = torch.zeros_like(valid[:, 0])
    before, after = [], []
    for t in range(values.shape[1]):
        last = torch.where(valid[:, t, None], values[:, t], last)
        seen = seen | valid[:, t]
        before.append((seen, last))
    for t in reversed(range(values.shape[1])):
        first = torch.where(valid[:, t, None], values[:, t], first)
        after.append(first)
    return torch.stack(
        [torch.where(seen[:, None], last, first) for (seen, last), first in zip(before, reversed(after), strict=True)],
        dim=1,
    )


def _related(x: Tensor, embedding: RelationEmbedding, stream: int) -> Tensor:
    """x [N, K, C, H, W] → x + softmax(θ(x) φ(x)ᵀ / √(CHW)) x, θ and φ being 1×1 convolutions of a node's maps."""
    nodes, channels, height, width = x.shape[1:]

    def embedded(weight: Tensor, bias: Tensor) -> Tensor:
        maps = F.conv2d(x.flatten(0, 1), weight[stream][:, :, None, None], bias[stream])
        return maps.unflatten(0, (-1, nodes)).flatten(2)  # [N, K, C·H·W]

    theta, phi = embedded(embedding.theta, embedding.theta_bias), embedded(embedding.phi, embedding.phi_bias)
    relation = torch.softmax(theta @ phi.transpose(1, 2) / math.sqrt(channels * height * width), dim=-1)
    return x + (relation @ x.flatten(2)).view_as(x)


def _stream_logits(relation: MultiOrderRelation, hand: Tensor, frame_valid: Tensor, stream: int) -> Tensor:
    """Level 3 of one stream [B, T, C, H, W] through its own TCN → [B, A]."""
    tcn, grid = relation.tcn, relation.grid
    pooled = F.avg_pool2d(hand.flatten(0, 1), (hand.shape[-2] // grid, hand.shape[-1] // grid)).flatten(1)
    x = F.layer_norm(pooled, pooled.shape[-1:], tcn.norm_weight[stream], tcn.norm_bias[stream])
    x = x.unflatten(0, frame_valid.shape).transpose(1, 2)  # [B, C·g·g, T]
    valid = frame_valid[:, None].to(x.dtype)
    for convolution in tcn.convolutions:
        assert isinstance(convolution, nn.Conv1d) and convolution.bias is not None
        weight, bias = _of_stream(convolution.weight, tcn, stream), _of_stream(convolution.bias, tcn, stream)
        x = F.relu(F.conv1d(x * valid, weight, bias, padding=1))
    mean = (x * valid).sum(dim=2) / valid.sum(dim=2).clamp(min=1.0)
    assert tcn.classify.bias is not None
    weight = _of_stream(tcn.classify.weight, tcn, stream).squeeze(-1)
    return F.linear(mean, weight, _of_stream(tcn.classify.bias, tcn, stream))


def _of_stream(parameter: Tensor, tcn: StreamTcn, stream: int) -> Tensor:
    """One stream's part of a parameter of a convolution grouped by stream."""
    return parameter.unflatten(0, (tcn.streams, -1))[stream]
