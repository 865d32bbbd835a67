"""The gesture sub-network: multi-order streams, slow-fast weights and multi-scale relations (Sec. 3.2, 3.3).

The paper sends five weighted copies of the zero-order features Zo through five relation modules. All that happens to a
copy before the TCN is linear over joints: the slow and fast streams are per-joint scalars times Zo (Sec. 3.2), and
structure pooling, relation, skip and node up-sampling mix joints alike at every channel and pixel (Sec. 3.3). So stream
s is T_s · Zo with a J×J matrix T_s for each frame, 𝒢 = (mean_s T_s) · Zo, and every relation logit is a bilinear form
of one (J·C)×(J·C) Gram matrix for each frame. This module computes just that: one pass for the Gram matrix, one
for the differences, one for the pooled features. 𝒢 is not built either: its only reader begins with a 1×1. The literal
five copies stand in `bench.plain`; the tests hold outputs and gradients equal.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from gesturepose.models.pointwise import PointwiseMap
from gesturepose.params import Stream
from gesturepose.structures import precise


@dataclass(frozen=True)
class GestureMaps:
    """𝒢 = mix · Zo, the product left to whoever reads it."""

    zero_order: Tensor  # [N, J·C, H, W]
    mix: Tensor  # [N, J, J], the mean of the streams' T_s

    def read(self, by: PointwiseMap) -> Tensor:
        """`by`(𝒢) [N, out, H, W], `by` without bias: composed with each frame's mix, which is small, not with Zo."""
        assert by.bias is None
        with torch.autocast(self.mix.device.type, enabled=False):
            of_joints = by.weight.unflatten(1, (self.mix.shape[1], -1))  # [out, J, C]
            weight = torch.einsum("ojc,njk->nokc", of_joints.to(self.mix.dtype), self.mix).flatten(2)
        pixels = self.zero_order.flatten(2).transpose(1, 2)  # [N, H·W, J·C], a view of channels-last memory
        read = torch.bmm(pixels, weight.transpose(1, 2))
        return read.transpose(1, 2).unflatten(2, self.zero_order.shape[2:])


class GestureSubNetwork(nn.Module):
    """Convolutions grouped by joint, shared by the streams, then `MultiOrderRelation` (Sec. 3.1, stage 4)."""

    def __init__(self, relation: MultiOrderRelation, *, joints: int, channels: int, layers: int) -> None:
        super().__init__()
        self.joints = joints
        blocks: list[nn.Module] = []
        for _ in range(layers):
            blocks += [
                nn.Conv2d(joints * channels, joints * channels, kernel_size=3, padding=1, groups=joints, bias=False),
                nn.BatchNorm2d(joints * channels),
                nn.ReLU(inplace=True),
            ]
        self.by_joint = nn.Sequential(*blocks)
        self.relation = relation

    def forward(self, features: Tensor, frame_valid: Tensor) -> tuple[GestureMaps, Tensor]:
        """[B·T, J·C, H, W], [B, T] → 𝒢 and logits [B, A]."""
        zero_order = self.by_joint(features)
        by_joint = zero_order.unflatten(1, (self.joints, -1)).unflatten(0, frame_valid.shape)
        mix, logits = self.relation(by_joint, frame_valid)
        return GestureMaps(zero_order, mix.flatten(0, 1)), logits


class MultiOrderRelation(nn.Module):
    """All streams of Fig. 2 with their relation modules (Fig. 3) and TCNs at once.

    Args:
        parts: level 2 of the hand, a tuple of joint numbers for each finger and the palm; every joint in one part.
        streams: which of the five streams take part.
        multi_scale: False leaves out relations, levels and skips (the paper's "Baseline"); joints are then averaged.
        grid: the level-3 features are averaged to grid × grid before the TCN; 1 is the paper read literally.
        detach_slow_fast: no gradient through the slow-fast weights.
    """

    pool_parts: Tensor
    pool_joints: Tensor
    parts_to_joints: Tensor

    def __init__(
        self,
        *,
        parts: Sequence[Sequence[int]],
        channels: int,
        gestures: int,
        streams: Sequence[Stream],
        multi_scale: bool,
        grid: int,
        tcn_layers: int,
        tcn_width: int,
        detach_slow_fast: bool,
    ) -> None:
        super().__init__()
        joints = sum(len(part) for part in parts)
        membership = torch.zeros(len(parts), joints)
        for part, members in enumerate(parts):
            membership[part, list(members)] = 1.0
        if not torch.equal(membership.sum(dim=0), torch.ones(joints)):
            raise ValueError(f"every one of the {joints} joints has to stand in exactly one part, got {parts}")
        self.register_buffer("pool_parts", membership / membership.sum(dim=1, keepdim=True), persistent=False)  # [P, J]
        self.register_buffer("pool_joints", torch.full((1, joints), 1.0 / joints), persistent=False)
        self.register_buffer("parts_to_joints", membership.T.contiguous(), persistent=False)  # [J, P]
        self.streams = tuple(streams)
        self.multi_scale = multi_scale
        self.grid = grid
        self.detach_slow_fast = detach_slow_fast
        if multi_scale:
            self.joint_relation = RelationEmbedding(len(streams), channels)
            self.part_relation = RelationEmbedding(len(streams), channels)
        self.tcn = StreamTcn(
            streams=len(streams),
            features=channels * grid * grid,
            width=tcn_width,
            layers=tcn_layers,
            gestures=gestures,
        )

    def forward(self, zero_order: Tensor, frame_valid: Tensor) -> tuple[Tensor, Tensor]:
        """Zo [B, T, J, C, H, W] and which frames count [B, T] → the mix of joints that makes 𝒢 of Zo, logits [B, A].

        The mix is [B, T, J, J]: 𝒢_i = Σ_j mix_ij Zo_j.
        """
        # Squares and sums over pixels do not live in bf16, where autocast would put them.
        with torch.autocast(zero_order.device.type, enabled=False):
            weights = self._stream_weights(zero_order, frame_valid)  # [B, T, S, J]
            pooled = _average_grid(zero_order, self.grid)  # [B, T, J, C, g, g]
            to_joints, to_hand = self._mixing(zero_order, pooled, weights)  # [B, T, S, J, J], [B, T, S, J]
            hand = torch.einsum("btsj,btjf->btsf", to_hand, pooled.flatten(3))  # level 3 of every stream
            logits = self.tcn(hand, frame_valid)
        return to_joints.mean(dim=2), logits

    def _stream_weights(self, zero_order: Tensor, frame_valid: Tensor) -> Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.detach_slow_fast):
            motion = motion_magnitudes(zero_order, frame_valid) if self.streams != ("zero",) else {}
            by_name: dict[str, Tensor] = {}
            for order, magnitudes in motion.items():
                by_name[f"{order}_slow"], by_name[f"{order}_fast"] = slow_fast_weights(magnitudes)
            by_name["zero"] = precise(zero_order.new_ones(zero_order.shape[:3]))
            return torch.stack([by_name[stream] for stream in self.streams], dim=2)

    def _mixing(self, zero_order: Tensor, pooled: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """T_s and the row that takes joints to the hand, for every stream and frame."""
        stream = torch.diag_embed(weights)  # level 0: a weight a joint
        if not self.multi_scale:
            return stream, (self.pool_joints @ stream).squeeze(-2)
        joints, channels, height, width = zero_order.shape[2:]
        scale = 1.0 / math.sqrt(channels * height * width)  # unscaled logits over 65k dimensions saturate
        pixels = height * width
        rows = zero_order.flatten(4).flatten(2, 3).flatten(0, 1).transpose(1, 2)  # [B·T, H·W, J·C]
        gram = _Gram.apply(rows).unflatten(2, (joints, channels)).unflatten(1, (joints, channels))
        gram = gram.unflatten(0, zero_order.shape[:2])
        sums = pixels * pooled.mean(dim=(-2, -1))  # [B, T, J, C]
        # Level 1: joints.
        relation = self.joint_relation(gram, sums, stream, pixels, scale)
        level_1 = stream + relation @ stream  # [B, T, S, J, J]
        # Level 2: five fingers and the palm.
        parts = self.pool_parts @ level_1  # [B, T, S, P, J]
        relation = self.part_relation(gram, sums, parts, pixels, scale)
        level_2 = parts + relation @ parts
        # Level 3: the hand. A 1×1 relation is a softmax over one number, the identity.
        level_3 = level_2.mean(dim=-2, keepdim=True)  # [B, T, S, 1, J]
        # Node up-sampling with skips: what a part or the hand has goes to each of its children.
        return level_1 + self.parts_to_joints @ (level_2 + level_3), level_3.squeeze(-2)


class _Gram(torch.autograd.Function):
    """XᵀX [N, D, D] of X [N, P, D]; its gradient X(G + Gᵀ) is one product, where autograd would take two and a sum."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        values = precise(rows)
        return values.transpose(1, 2) @ values

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (rows,) = ctx.saved_tensors
        return (precise(rows) @ (gradient + gradient.transpose(1, 2))).to(rows.dtype)


class RelationEmbedding(nn.Module):
    """The two 1×1×1 embeddings θ and φ of Sec. 3.3 at one level, for all streams, and the relation they give.

    Σ over pixels of θ(x_i)·φ(x_j) = Σ_cd (Wθᵀ Wφ)_cd ⟨x_ic, x_jd⟩ + bθᵀ Wφ Σx_j + Σx_iᵀ Wθᵀ bφ + HW bθᵀ bφ.
    """

    def __init__(self, streams: int, channels: int) -> None:
        super().__init__()
        bound = 1.0 / math.sqrt(channels)  # PyTorch's default for a 1×1 convolution
        self.theta = nn.Parameter(torch.empty(streams, channels, channels).uniform_(-bound, bound))
        self.theta_bias = nn.Parameter(torch.empty(streams, channels).uniform_(-bound, bound))
        self.phi = nn.Parameter(torch.empty(streams, channels, channels).uniform_(-bound, bound))
        self.phi_bias = nn.Parameter(torch.empty(streams, channels).uniform_(-bound, bound))

    def forward(self, gram: Tensor, sums: Tensor, mix: Tensor, pixels: int, scale: float) -> Tensor:
        """The softmax relation between the nodes that `mix` makes of the joints of Zo.

        Args:
            gram: [B, T, J, C, J, C] inner products over pixels. sums: [B, T, J, C] sums over pixels.
            mix: [B, T, S, K, J], node k of stream s is Σ_j mix_kj Zo_j.

        Returns:
            [B, T, S, K, K], rows sum to one.
        """
        bilinear = torch.einsum("sec,sed->scd", self.theta, self.phi)  # Wθᵀ Wφ
        between_joints = torch.einsum("bticjd,scd->btsij", gram, bilinear)
        node_sums = torch.einsum("btskj,btjc->btskc", mix, sums)  # [B, T, S, K, C]
        from_phi = torch.einsum("btskc,sec,se->btsk", node_sums, self.phi, self.theta_bias)
        from_theta = torch.einsum("btskc,sec,se->btsk", node_sums, self.theta, self.phi_bias)
        constant = pixels * (self.theta_bias * self.phi_bias).sum(dim=1)  # [S]
        logits = mix @ between_joints @ mix.transpose(-1, -2)
        logits = logits + from_theta[..., :, None] + from_phi[..., None, :] + constant[:, None, None]
        return torch.softmax(logits * scale, dim=-1)


class StreamTcn(nn.Module):
    """A temporal convolution network of its own for each stream; y is the mean of the streams' logits (Sec. 3.2)."""

    def __init__(self, *, streams: int, features: int, width: int, layers: int, gestures: int) -> None:
        super().__init__()
        self.norm_weight = nn.Parameter(torch.ones(streams, features))
        self.norm_bias = nn.Parameter(torch.zeros(streams, features))
        sizes = [features] + [width] * layers
        self.convolutions = nn.ModuleList(
            nn.Conv1d(streams * c_in, streams * c_out, kernel_size=3, padding=1, groups=streams)
            for c_in, c_out in pairwise(sizes)
        )
        self.classify = nn.Conv1d(streams * width, streams * gestures, kernel_size=1, groups=streams)
        self.streams = streams

    def forward(self, hand: Tensor, frame_valid: Tensor) -> Tensor:
        """Level-3 features [B, T, S, F] → logits [B, A]; frames that do not count have no influence."""
        x = nn.functional.layer_norm(precise(hand), hand.shape[-1:])
        x = (x * self.norm_weight + self.norm_bias).flatten(2).transpose(1, 2)  # [B, S·F, T]
        valid = frame_valid[:, None, :].to(x.dtype)
        for convolution in self.convolutions:
            x = torch.relu(convolution(x * valid))  # zeros, as the convolution's own padding
        mean = (x * valid).sum(dim=2, keepdim=True) / valid.sum(dim=2, keepdim=True).clamp(min=1.0)
        return self.classify(mean).squeeze(2).unflatten(1, (self.streams, -1)).mean(dim=1)


def motion_magnitudes(zero_order: Tensor, frame_valid: Tensor) -> dict[str, Tensor]:
    """FD of the first-order (Eq. 2) and second-order (Eq. 4) features: their L2 norm over C·H·W for each joint.

    The difference that a clip's end or a missing frame leaves undefined is the nearest one that is defined, the earlier
    one first (Fo_0 := Fo_1, So_0 := So_1, So_{T−1} := So_{T−2}).

    Args:
        zero_order: [B, T, J, C, H, W], T ≥ 3. frame_valid: [B, T].

    Returns:
        {"first": [B, T, J], "second": [B, T, J]}, fp32 (fp64 for fp64 input); 0 where a clip has no defined difference.
    """
    clips, frames, joints = zero_order.shape[:3]
    if frames < 3:
        raise ValueError(f"second-order features (Eq. 4) need at least 3 frames a clip, got {frames}")
    values = precise(zero_order)
    difference = values[:, 1:] - values[:, :-1]  # Fo_1 … Fo_{T−1}
    first = torch.linalg.vector_norm(difference, dim=(3, 4, 5))  # [B, T−1, J]
    second = torch.linalg.vector_norm(difference[:, 1:] - difference[:, :-1], dim=(3, 4, 5))  # So_1 … So_{T−2}
    nothing = first.new_zeros(clips, 1, joints)
    none = frame_valid.new_zeros(clips, 1)
    first_valid = frame_valid[:, 1:] & frame_valid[:, :-1]
    return {
        "first": _fill(torch.cat([nothing, first], dim=1), torch.cat([none, first_valid], dim=1)),
        "second": _fill(
            torch.cat([nothing, second, nothing], dim=1),
            torch.cat([none, first_valid[:, 1:] & first_valid[:, :-1], none], dim=1),
        ),
    }


def slow_fast_weights(magnitudes: Tensor) -> tuple[Tensor, Tensor]:
    """FD [..., J] → weights of the slow and the fast stream, [..., J] each (Sec. 3.2).

    Gaussians around the least and the greatest FD with σ = (FD_max − FD_min)/3. The range gets ε = 1e-3 · FD_max, so
    that joints which all move alike weigh 1 in both; a smaller ε would amplify rounding.
    """
    least = magnitudes.amin(dim=-1, keepdim=True)
    greatest = magnitudes.amax(dim=-1, keepdim=True)
    tiny = torch.finfo(magnitudes.dtype).tiny ** 0.5
    sigma = (greatest - least + 1e-3 * greatest + tiny) / 3.0
    slow = torch.exp(-0.5 * ((magnitudes - least) / sigma) ** 2)
    fast = torch.exp(-0.5 * ((magnitudes - greatest) / sigma) ** 2)
    return slow, fast


def _fill(values: Tensor, valid: Tensor) -> Tensor:
    """[B, T, J] values where `valid` [B, T]; elsewhere the last valid one before, else the first one after, else 0."""
    steps = torch.arange(valid.shape[1], device=valid.device)
    last = torch.where(valid, steps, -1).cummax(dim=1).values
    source = torch.where(last >= 0, last, valid.int().argmax(dim=1, keepdim=True))
    # A product with a 0/1 matrix instead of a gather: its backward is deterministic on every device.
    pick = (source[:, :, None] == steps).to(values.dtype) * valid[:, None, :].to(values.dtype)  # [B, T, T]
    return pick @ values


def _average_grid(zero_order: Tensor, grid: int) -> Tensor:
    """[B, T, J, C, H, W] → [B, T, J, C, g, g]; adaptive pooling would have no deterministic backward on a GPU."""
    height, width = zero_order.shape[-2:]
    maps = precise(zero_order).flatten(2, 3).flatten(0, 1)
    pooled = nn.functional.avg_pool2d(maps, (height // grid, width // grid))
    return pooled.unflatten(1, zero_order.shape[2:4]).unflatten(0, zero_order.shape[:2])
