"""The criterion: Eq. 5 by hand, and labels that are not there."""

import math
from dataclasses import replace

import pytest
import torch

from gesturepose.heatmaps import crop_to_heatmap, gaussian_heatmaps
from gesturepose.losses import CollaborativeCriterion, depth_loss, gesture_loss, heatmap_loss
from gesturepose.params import LossSettings
from gesturepose.structures import ClipBatch, IterationOutput

B, T, J, H, A = 2, 3, 5, 8, 13
SETTINGS = LossSettings(heatmap=1.0, depth=0.001, gesture=0.001)


def batch_of(clips=B):
    torch.manual_seed(5)
    return ClipBatch(
        video=torch.zeros(clips, T, 3, 4 * H, 4 * H),
        frame_valid=torch.ones(clips, T, dtype=torch.bool),
        joints_uv_crop_px=torch.rand(clips, T, J, 2) * (4 * H - 1),
        depth_rel=torch.randn(clips, T, J),
        joint_valid=torch.ones(clips, T, J, dtype=torch.bool),
        gesture=torch.randint(A, (clips,)),
        gesture_valid=torch.ones(clips, dtype=torch.bool),
        video_index=torch.arange(clips),
        frame_index=torch.zeros(clips, T, dtype=torch.int64),
    )


def outputs_of(count=2, clips=B):
    torch.manual_seed(6)
    return [
        IterationOutput(
            torch.randn(clips, T, J, H, H, requires_grad=True),
            torch.randn(clips, T, J, requires_grad=True),
            torch.randn(clips, A, requires_grad=True),
        )
        for _ in range(count)
    ]


def test_terms_by_hand():
    batch, output = batch_of(), outputs_of(1)[0]
    target = gaussian_heatmaps(crop_to_heatmap(batch.joints_uv_crop_px, 4), H, H)
    torch.testing.assert_close(heatmap_loss(output.heatmaps, batch), (output.heatmaps - target).square().mean())
    per_frame = (output.depth_rel - batch.depth_rel).square().sum(dim=-1)
    torch.testing.assert_close(depth_loss(output.depth_rel, batch), per_frame.mean())
    picked = output.logits.log_softmax(dim=1)[torch.arange(B), batch.gesture]
    torch.testing.assert_close(gesture_loss(output.logits, batch), -picked.mean())


def test_total_is_eq_5_over_all_iterations():
    losses = CollaborativeCriterion(SETTINGS)(outputs_of(), batch_of())
    torch.testing.assert_close(losses.total, losses.heatmap + 0.001 * losses.depth + 0.001 * losses.gesture)


def test_weighted_terms_start_alike():
    """The scale that the module's docstring derives, for 64×64 maps and 45 classes."""
    batch = replace(batch_of(), joints_uv_crop_px=torch.rand(B, T, J, 2) * 156 + 50)
    assert heatmap_loss(torch.zeros(B, T, J, 64, 64), batch).item() == pytest.approx(0.0031, rel=0.05)
    assert 0.001 * gesture_loss(torch.zeros(B, 45), batch).item() == pytest.approx(0.001 * math.log(45))


@pytest.mark.parametrize("poison", [math.nan, math.inf, 1e30])
def test_withheld_labels_reach_neither_loss_nor_gradient(poison):
    criterion, batch = CollaborativeCriterion(SETTINGS), batch_of()
    pose_given, gesture_given = torch.tensor([True, False]), torch.tensor([False, True])
    masked = replace(batch, joint_valid=batch.joint_valid & pose_given[:, None, None], gesture_valid=gesture_given)
    uv, depth, gesture = batch.joints_uv_crop_px.clone(), batch.depth_rel.clone(), batch.gesture.clone()
    uv[1], depth[1], gesture[0] = poison, poison, -1
    poisoned = replace(masked, joints_uv_crop_px=uv, depth_rel=depth, gesture=gesture)
    results = []
    for labels in (masked, poisoned):
        outputs = outputs_of()
        losses = criterion(outputs, labels)
        losses.total.backward()
        results.append([losses.total, *(o.heatmaps.grad for o in outputs), *(o.logits.grad for o in outputs)])
    for clean, dirty in zip(*results, strict=True):
        assert torch.equal(clean, dirty)
    assert torch.equal(outputs[0].heatmaps.grad[1], torch.zeros(T, J, H, H))
    assert torch.equal(outputs[0].logits.grad[0], torch.zeros(A))


def test_denominators_are_the_valid_entries_of_the_batch():
    batch, output = batch_of(), outputs_of(1)[0]
    only_first = replace(batch, joint_valid=batch.joint_valid & torch.tensor([True, False])[:, None, None])
    first = replace(batch_of(), **{name: getattr(batch, name)[:1] for name in batch.__dataclass_fields__})
    torch.testing.assert_close(heatmap_loss(output.heatmaps, only_first), heatmap_loss(output.heatmaps[:1], first))
    torch.testing.assert_close(depth_loss(output.depth_rel, only_first), depth_loss(output.depth_rel[:1], first))


def test_no_label_at_all_is_zero_loss():
    batch = batch_of()
    nothing = replace(
        batch, joint_valid=torch.zeros_like(batch.joint_valid), gesture_valid=torch.zeros_like(batch.gesture_valid)
    )
    assert CollaborativeCriterion(SETTINGS)(outputs_of(), nothing).total == 0.0


def test_joints_outside_the_crop_have_no_heatmap_but_a_depth():
    batch, output = batch_of(), outputs_of(1)[0]
    uv = batch.joints_uv_crop_px.clone()
    uv[:, :, 2] = torch.tensor([4.0 * H + 3.0, 1.0])
    outside = replace(batch, joints_uv_crop_px=uv)
    keep = torch.tensor([0, 1, 3, 4])
    inside = replace(
        batch, joints_uv_crop_px=uv[:, :, keep], depth_rel=batch.depth_rel[:, :, keep],
        joint_valid=batch.joint_valid[:, :, keep],
    )  # fmt: skip
    torch.testing.assert_close(
        heatmap_loss(output.heatmaps, outside), heatmap_loss(output.heatmaps[:, :, keep], inside)
    )
    torch.testing.assert_close(depth_loss(output.depth_rel, outside), depth_loss(output.depth_rel, batch))
