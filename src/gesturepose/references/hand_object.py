"""Poses first, then actions, after H+O (Tekin et al., CVPR 2019), with hands alone.

H+O sees single images; a recurrent network then reads what it says of each. The paper's Table 1 has it with hand poses
(HP), and with hand poses and action classes (HP + AC). Here the network of single images is our trunk with one pose
sub-network of ours, 2D heatmaps and depths in place of H+O's grid of 3D cells, so that trunk, criterion and decoding
are those of the collaborative network and the rows differ in how pose and gesture meet.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gesturepose.heatmaps import decode_heatmaps
from gesturepose.models.pose import PoseSubNetwork
from gesturepose.models.trunk import Trunk
from gesturepose.params import HEATMAP_STRIDE, NetworkSettings
from gesturepose.references.pose_lstm import LSTM_WIDTH, RecurrentClassifier
from gesturepose.skeleton import JOINTS
from gesturepose.structures import IterationOutput, precise


class HandObjectNetwork(nn.Module):
    """Pose, and with `frame_actions` the action class, of each frame by itself; then an LSTM on them.

    No gradient goes from the LSTM into the network of single images: that one learns frame by frame from its own
    labels, as H+O's does.
    """

    def __init__(
        self, trunk: Trunk, pose: PoseSubNetwork, *, head_channels: int, gestures: int, frame_actions: bool
    ) -> None:
        super().__init__()
        self.trunk = trunk
        # What of the pose sub-network comes before 𝒫, which nobody reads here.
        self.to_heatmaps = pose.to_heatmaps
        self.to_depth_input = pose.to_depth_input
        self.depth_head = pose.depth_head
        self.to_action = nn.Linear(head_channels, gestures) if frame_actions else None
        features = 3 * JOINTS + (gestures if frame_actions else 0)
        self.recurrent = RecurrentClassifier(features, width=LSTM_WIDTH, gestures=gestures)

    def forward(self, video: Tensor, frame_valid: Tensor) -> list[IterationOutput]:
        """Frames [B, T, 3, H, W] (RGB, 0–255) and which of them count [B, T] → one output, the recurrent network's.

        With `frame_actions` there is one before it, with the same pose: the single images', whose logits are the mean
        of the frames'. The criterion supervises both.
        """
        clips = frame_valid.shape
        head = self.trunk(video.flatten(0, 1))
        joints = self.trunk.to_joints(head)
        heatmaps = self.to_heatmaps(joints)
        depth_rel = self.depth_head(self.to_depth_input(torch.cat([joints, heatmaps], dim=1)))
        depth_rel = depth_rel - depth_rel[:, :1]  # the wrist is the root
        said = [_pose_features(heatmaps, depth_rel)]
        heatmaps, depth_rel = heatmaps.unflatten(0, clips), depth_rel.unflatten(0, clips)
        outputs = []
        if self.to_action is not None:
            frame_logits = precise(self.to_action(head.mean(dim=(2, 3))))
            said.append(torch.softmax(frame_logits, dim=1))
            valid = frame_valid[..., None]
            total = torch.where(valid, frame_logits.unflatten(0, clips), 0.0).sum(dim=1)
            outputs.append(IterationOutput(heatmaps, depth_rel, total / valid.sum(dim=1).clamp(min=1)))
        logits = self.recurrent(torch.cat(said, dim=1).detach().unflatten(0, clips), frame_valid)
        return [*outputs, IterationOutput(heatmaps, depth_rel, logits)]


def build_hand_object(
    settings: NetworkSettings, trunk: Trunk, *, gestures: int, image_size: int, frame_actions: bool
) -> HandObjectNetwork:
    """The network around `trunk`, for crops of `image_size` px; HP, or HP + AC with `frame_actions`."""
    pose = PoseSubNetwork(
        channels=JOINTS * settings.channels,
        joints=JOINTS,
        heatmap_size=image_size // HEATMAP_STRIDE,
        depth_head=settings.depth_head,
        hidden_channels=settings.head_channels,
    )
    return HandObjectNetwork(
        trunk, pose, head_channels=settings.head_channels, gestures=gestures, frame_actions=frame_actions
    )


def _pose_features(heatmaps: Tensor, depth_rel: Tensor) -> Tensor:
    """Heatmaps [N, J, H, W] and depths [N, J] → [N, 3J]: places in the crop, ±1 at its edges, and depths, 100 mm."""
    height, width = heatmaps.shape[-2:]
    uv = decode_heatmaps(heatmaps.detach())
    places = (uv + 0.5) / uv.new_tensor([width, height]) * 2.0 - 1.0
    return torch.cat([places.flatten(1), precise(depth_rel)], dim=1)
