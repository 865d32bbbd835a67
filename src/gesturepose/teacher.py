"""A mean teacher for the videos without pose labels, beyond the paper.

The teacher is the moving average of the network's weights (Tarvainen and Valpola, NIPS 2017). It sees a clip as it is;
what it says of the joints becomes the clip's label, where its heatmap is sure of them, and moves along when the clip is
changed at random for the network (as in Xie et al., "An Empirical Study of the Collapsing Problem in Semi-Supervised 2D
Human Pose Estimation", ICCV 2021: an easy view teaches a hard one).
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from gesturepose.heatmaps import decode_heatmaps, heatmap_to_crop
from gesturepose.models.collaborative import CollaborativeNetwork
from gesturepose.params import HEATMAP_STRIDE
from gesturepose.structures import ClipBatch, precise


@dataclass
class MeanTeacher:
    """The moving average of a network's weights and running statistics.

    Attributes:
        decay: of the average, once it has seen enough steps; before, all steps weigh alike.
        confidence: least heatmap peak of a joint that gets a label (1 is a perfect one).
    """

    network: CollaborativeNetwork
    decay: float
    confidence: float
    steps: int = 0

    @classmethod
    def of(cls, network: CollaborativeNetwork, *, decay: float, confidence: float) -> MeanTeacher:
        teacher = copy.deepcopy(network).eval().requires_grad_(False)
        return cls(teacher, decay, confidence)

    @torch.no_grad()
    def follow(self, network: nn.Module) -> None:
        """Take the network's present weights into the average; call once a step."""
        decay = min(self.decay, self.steps / (self.steps + 1))
        self.steps += 1
        for mean, value in zip(self.network.state_dict().values(), network.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1.0 - decay)
            else:
                mean.copy_(value)

    @torch.no_grad()
    def label(self, batch: ClipBatch, unlabelled: Tensor, autocast: torch.autocast) -> ClipBatch:
        """`batch` with the teacher's joints in the clips `unlabelled` [B]; their labels before are never read."""
        with autocast:
            last = self.network(batch.video[unlabelled], batch.frame_valid[unlabelled])[-1]
        heatmaps = precise(last.heatmaps)
        sure = (heatmaps.amax(dim=(-2, -1)) >= self.confidence) & batch.frame_valid[unlabelled][..., None]
        uv_crop_px = heatmap_to_crop(decode_heatmaps(heatmaps), HEATMAP_STRIDE)
        given = {
            "joints_uv_crop_px": uv_crop_px.to(batch.joints_uv_crop_px.dtype),
            "depth_rel": precise(last.depth_rel).to(batch.depth_rel.dtype),
            "joint_valid": sure,
        }
        return replace(
            batch, **{name: _put(getattr(batch, name), unlabelled, values) for name, values in given.items()}
        )

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.network.load_state_dict(state["network"])
        self.steps = state["steps"]


def _put(whole: Tensor, rows: Tensor, values: Tensor) -> Tensor:
    changed = whole.clone()
    changed[rows] = values
    return changed
