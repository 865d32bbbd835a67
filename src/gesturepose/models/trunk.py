"""The trunk: frames → joint-aware feature maps 𝒥 (Sec. 3.1, stage 1)."""

from __future__ import annotations

from itertools import pairwise

import torch
import torchvision
from torch import Tensor, nn

_IMAGENET_MEAN = (123.675, 116.28, 103.53)
_IMAGENET_STD = (58.395, 57.12, 57.375)


class Trunk(nn.Module):
    """A ResNet, up-convolutions to a quarter of the input's size, and a 1×1 to J·C channels.

    The paper says "a pre-trained ResNet" and maps of 64×64 for an input of 256×256; the three up-convolutions are the
    head of Simple Baselines (Xiao et al., ECCV 2018), which fills what the paper leaves open. With `stages` 3 the last
    stage of the ResNet and one up-convolution are left out: at stride 32 a crop of 64 px is two pixels wide, and a
    trunk without pre-training hardly learns from that.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, resnet: torchvision.models.ResNet, *, head_channels: int, out_channels: int, stages: int
    ) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(_IMAGENET_MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(_IMAGENET_STD).view(1, 3, 1, 1), persistent=False)
        self.stem = nn.Sequential(resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool)
        self.stages = nn.Sequential(*[resnet.layer1, resnet.layer2, resnet.layer3, resnet.layer4][:stages])
        channels = [resnet.fc.in_features >> (4 - stages), *[head_channels] * (stages - 1)]
        self.head = nn.Sequential(
            *(
                nn.Sequential(
                    nn.ConvTranspose2d(c_in, c_out, kernel_size=4, stride=2, padding=1, bias=False),
                    nn.BatchNorm2d(c_out),
                    nn.ReLU(inplace=True),
                )
                for c_in, c_out in pairwise(channels)
            )
        )
        self.to_joints = nn.Conv2d(head_channels, out_channels, kernel_size=1)
        for module in self.head.modules():
            if isinstance(module, nn.ConvTranspose2d):
                nn.init.normal_(module.weight, std=0.001)

    def take_resnet(self, resnet: torchvision.models.ResNet) -> None:
        """Take over the weights of another ResNet of the same kind."""
        donor = Trunk(resnet, head_channels=1, out_channels=1, stages=len(self.stages))
        self.stem.load_state_dict(donor.stem.state_dict())
        self.stages.load_state_dict(donor.stages.state_dict())

    def forward(self, frames: Tensor) -> Tensor:
        """[N, 3, H, W] RGB, 0–255 → [N, J·C, H/4, W/4]."""
        normalised = (frames.float() - self.mean) / self.std
        return self.to_joints(self.head(self.stages(self.stem(normalised))))


class HeatmapNetwork(nn.Module):
    """The trunk with one 1×1 to J heatmaps: what fine-tuning trains (Sec. 3.5, "we first finetune the ResNet-50")."""

    def __init__(self, trunk: Trunk, *, joint_channels: int, joints: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.to_heatmaps = nn.Conv2d(joint_channels, joints, kernel_size=1)

    def forward(self, video: Tensor, frame_valid: Tensor) -> Tensor:
        """[B, T, 3, H, W], [B, T] → heatmaps [B, T, J, H/4, W/4]; frames do not see each other."""
        return self.to_heatmaps(self.trunk(video.flatten(0, 1))).unflatten(0, frame_valid.shape)
