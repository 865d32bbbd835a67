"""Sec. 3.2 and 3.3 read literally: five weighted copies of Zo, each through a relation module of its own.

The reference that `MultiOrderRelation` is held to; it uses that module's parameters and nothing of its arithmetic.
"""

import math

import torch
from torch.nn import functional as F

from gesturepose.models.gesture import MultiOrderRelation


def literal_streams(module, zero_order, frame_valid):
    """Zo [B, T, J, C, H, W] → {stream: [B, T, J, C, H, W]}, frame by frame."""
    clips, frames = frame_valid.shape
    copies = {name: [] for name in module.streams}
    for b in range(clips):
        fo, so = {}, {}
        for t in range(1, frames):
            if frame_valid[b, t] and frame_valid[b, t - 1]:
                fo[t] = zero_order[b, t] - zero_order[b, t - 1]
        for t in range(1, frames - 1):
            if t in fo and t + 1 in fo:
                so[t] = fo[t + 1] - fo[t]
        for name in module.streams:
            per_frame = []
            for t in range(frames):
                weight = torch.ones(zero_order.shape[2], dtype=zero_order.dtype)
                if name != "zero":
                    order, pace = name.split("_")
                    differences = fo if order == "first" else so
                    if differences:
                        earlier = [key for key in differences if key <= t]
                        difference = differences[max(earlier) if earlier else min(differences)]
                        fd = torch.stack([difference[j].flatten().norm() for j in range(len(difference))])
                        if module.detach_slow_fast:
                            fd = fd.detach()
                        sigma = (fd.max() - fd.min() + 1e-3 * fd.max()) / 3
                        if fd.max() > 0:
                            centre = fd.min() if pace == "slow" else fd.max()
                            weight = torch.exp(-((fd - centre) ** 2) / (2 * sigma**2))
                per_frame.append(zero_order[b, t] * weight[:, None, None, None])
            copies[name].append(torch.stack(per_frame))
    return {name: torch.stack(clip_list) for name, clip_list in copies.items()}


def _relate(x, embedding, stream):
    """x [N, K, C, H, W] → x + softmax(θ(x) φ(x)ᵀ / √CHW) x, with real 1×1×1 convolutions."""
    _, nodes, channels, height, width = x.shape

    def embed(weight, bias):
        flat = F.conv2d(x.flatten(0, 1), weight[stream][:, :, None, None], bias[stream])
        return flat.unflatten(0, (-1, nodes)).flatten(2)

    theta, phi = embed(embedding.theta, embedding.theta_bias), embed(embedding.phi, embedding.phi_bias)
    relation = torch.softmax(theta @ phi.transpose(1, 2) / math.sqrt(channels * height * width), dim=-1)
    return x + (relation @ x.flatten(2)).view_as(x)


def literal_relation(module: MultiOrderRelation, zero_order, frame_valid, parts):
    """The same results as `module(zero_order, frame_valid)`, by the long way."""
    gesture_maps, logits = [], []
    for number, copy in enumerate(literal_streams(module, zero_order, frame_valid).values()):
        x = copy.flatten(0, 1)  # [N, J, C, H, W]
        if module.multi_scale:
            level_1 = _relate(x, module.joint_relation, number)
            pooled = torch.stack([level_1[:, list(part)].mean(dim=1) for part in parts], dim=1)
            level_2 = _relate(pooled, module.part_relation, number)
            level_3 = level_2.mean(dim=1)
            out = level_1.clone()
            for part, members in enumerate(parts):
                for joint in members:
                    out[:, joint] = out[:, joint] + level_2[:, part] + level_3
        else:
            level_3, out = x.mean(dim=1), x
        gesture_maps.append(out.unflatten(0, frame_valid.shape))
        logits.append(_literal_tcn(module, level_3.unflatten(0, frame_valid.shape), frame_valid, number))
    return torch.stack(gesture_maps).mean(dim=0), torch.stack(logits).mean(dim=0)


def _literal_tcn(module, hand, frame_valid, stream):
    """hand [B, T, C, H, W] → [B, A], clip by clip over the valid frames only, one stream's weights."""
    tcn, grid = module.tcn, module.grid

    def of_stream(parameter):
        return parameter.unflatten(0, (tcn.streams, -1))[stream]

    rows = []
    for clip, valid in zip(hand, frame_valid, strict=True):
        pooled = F.avg_pool2d(clip, (clip.shape[-2] // grid, clip.shape[-1] // grid)).flatten(1)
        x = F.layer_norm(pooled, pooled.shape[-1:], tcn.norm_weight[stream], tcn.norm_bias[stream]).T[None]
        for convolution in tcn.convolutions:
            x = F.relu(F.conv1d(x * valid, of_stream(convolution.weight), of_stream(convolution.bias), padding=1))
        x = x[:, :, valid].mean(dim=2) if valid.any() else x.new_zeros(x.shape[:2])
        rows.append(F.linear(x, of_stream(tcn.classify.weight).squeeze(-1), of_stream(tcn.classify.bias))[0])
    return torch.stack(rows)
