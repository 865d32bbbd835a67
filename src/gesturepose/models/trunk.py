"""The trunk: frames → joint-aware feature maps 𝒥 (Sec. 3.1, stage 1)."""

from __future__ import annotations

import torch
import torchvision
from torch import Tensor, nn

from gesturepose.models.pointwise import PointwiseMap
from gesturepose.structures import precise

_IMAGENET_MEAN = (123.675, 116.28, 103.53)
_IMAGENET_STD = (58.395, 57.12, 57.375)


class Trunk(nn.Module):
    """A ResNet, up-convolutions to a quarter of the input's size, and a 1×1 to J·C channels.

    The paper says "a pre-trained ResNet" and maps of 64×64 for an input of 256×256; the up-convolutions are the head of
    Simple Baselines (Xiao et al., ECCV 2018), which fills what the paper leaves open.

    Args:
        stages: of the ResNet; 4 is stride 32 and three up-convolutions, 3 is stride 16 and two, for small crops.
        lateral: add a 1×1 of the ResNet's map of the same size after each up-convolution (feature pyramids, Lin et al.,
            CVPR 2017). A trunk without pre-training learns to localise several times sooner with it.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        resnet: torchvision.models.ResNet,
        *,
        head_channels: int,
        out_channels: int,
        stages: int,
        lateral: bool,
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool)
        self.stages = nn.ModuleList([resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4][:stages])
        widths = [resnet.fc.in_features >> (3 - stage) for stage in range(stages)]  # of the stages' maps
        self.head = nn.ModuleList(
            UpConvolution(
                widths[-1] if number == 0 else head_channels,
                head_channels,
                lateral_channels=widths[-2 - number] if lateral else None,
            )
            for number in range(stages - 1)
        )
        self.to_joints = nn.Conv2d(head_channels, out_channels, kernel_size=1)

    def take_resnet(self, resnet: torchvision.models.ResNet) -> None:
        """Take over the weights of another ResNet of the same kind."""
        donor = Trunk(resnet, head_channels=1, out_channels=1, stages=len(self.stages), lateral=False)
        self.stem.load_state_dict(donor.stem.state_dict())
        self.stages.load_state_dict(donor.stages.state_dict())

    def forward(self, frames: Tensor) -> Tensor:
        """[N, 3, H, W] RGB, 0–255 → the head's maps [N, head, H/4, W/4], of which 𝒥 is the 1×1 `to_joints`.

        Whatever reads 𝒥 begins with a 1×1 of its own, and two are one (see `pointwise`): 𝒥 itself is never built.
        """
        x = self.stem((precise(frames) - self.mean) / self.std)
        maps = []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        for up_convolution, same_size in zip(self.head, reversed(maps[:-1]), strict=True):
            x = up_convolution(x, same_size)
        return x


def start_near_zero(layer: nn.Module) -> None:
    """Let a layer that predicts start near zero, where the losses have the scale their weights are chosen for.

    Larger first predictions have a gradient that undoes what fine-tuning has taught the trunk.
    """
    for name, parameter in layer.named_parameters():
        nn.init.normal_(parameter, std=0.001) if name == "weight" else nn.init.zeros_(parameter)


class UpConvolution(nn.Module):
    """Twice the size by a transposed 4×4 convolution; with `lateral_channels`, plus a 1×1 of a map of that size."""

    def __init__(self, in_channels: int, out_channels: int, *, lateral_channels: int | None) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(in_channels, out_channels, kernel_size=4, stride=2, padding=1, bias=False)
        self.lateral = None
        if lateral_channels is not None:
            self.lateral = nn.Conv2d(lateral_channels, out_channels, kernel_size=1, bias=False)
        self.norm = nn.BatchNorm2d(out_channels)
        nn.init.normal_(self.up.weight, std=0.001)

    def forward(self, x: Tensor, same_size: Tensor) -> Tensor:
        """[N, in, H, W] and the ResNet's map [N, lateral, 2H, 2W] → [N, out, 2H, 2W]."""
        x = self.up(x)
        if self.lateral is not None:
            x = x + self.lateral(same_size)
        return torch.relu(self.norm(x))


class HeatmapNetwork(nn.Module):
    """The trunk with one 1×1 to J heatmaps: what fine-tuning trains (Sec. 3.5, "we first finetune the ResNet-50")."""

    def __init__(self, trunk: Trunk, *, joint_channels: int, joints: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.to_heatmaps = nn.Conv2d(joint_channels, joints, kernel_size=1)
        start_near_zero(self.to_heatmaps)

    def forward(self, video: Tensor, frame_valid: Tensor) -> Tensor:
        """[B, T, 3, H, W], [B, T] → heatmaps [B, T, J, H/4, W/4]; frames do not see each other."""
        head = self.trunk(video.flatten(0, 1))
        with torch.autocast(head.device.type, enabled=False):  # matrices are not composed in bf16
            to_heatmaps = PointwiseMap.of(self.to_heatmaps).after(PointwiseMap.of(self.trunk.to_joints))
        return to_heatmaps(head).unflatten(0, frame_valid.shape)
