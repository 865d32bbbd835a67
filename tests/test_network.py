"""The whole network: shapes, gradients in every ablation setting, and that it can learn a batch by heart."""

import pytest
import torch

from gesturepose import metrics
from gesturepose.backbone import initial_trunk
from gesturepose.data.clips import training_loader
from gesturepose.engine import Execution, infer, predict
from gesturepose.losses import CollaborativeCriterion
from gesturepose.models.collaborative import build_heatmap_network, build_network, build_trunk
from gesturepose.params import STREAMS, LossSettings
from gesturepose.skeleton import JOINTS

B, T, S, A = 2, 3, 32, 5
ABLATIONS = {
    "paper": {},
    "one iteration": {"iterations": 1},
    "five iterations": {"iterations": 5},
    "shared iterations": {"iterations": 3, "share_iterations": True},
    "baseline of Table 1": {"iterations": 1, "streams": ("zero",), "multi_scale": False},
    "multi-scale": {"iterations": 1, "streams": ("zero",)},
    "zero": {"streams": ("zero",)},
    "first order": {"streams": ("zero", "first_slow", "first_fast")},
    "second order": {"streams": ("zero", "second_slow", "second_fast")},
    "slow": {"streams": ("zero", "first_slow", "second_slow")},
    "fast": {"streams": ("zero", "first_fast", "second_fast")},
    "slow-fast weights with gradient": {"detach_slow_fast": False},
    "palm is the wrist": {"palm": "wrist"},
    "residual depth head": {"depth_head": "residual"},
    "literal TCN input": {"tcn_grid": 1},
    "one layer": {"gesture_layers": 1, "tcn_layers": 1},
    "trunk of the paper's lineage": {"stages": 4, "lateral": False},
    "resnet50": {"backbone": "resnet50"},
}


def video():
    torch.manual_seed(1)
    return torch.rand(B, T, 3, S, S) * 255, torch.ones(B, T, dtype=torch.bool)


@pytest.mark.parametrize("setting", ABLATIONS)
def test_gradients_reach_every_parameter(setting, params):
    settings = params.network.model_copy(update=ABLATIONS[setting])
    torch.manual_seed(0)
    network = build_network(settings, build_trunk(settings), gestures=A, image_size=S)
    outputs = network(*video())
    assert len(outputs) == settings.iterations
    for output in outputs:
        assert output.heatmaps.shape == (B, T, JOINTS, S // 4, S // 4)
        assert output.depth_rel.shape == (B, T, JOINTS) and output.logits.shape == (B, A)
        assert torch.equal(output.depth_rel[..., 0], torch.zeros(B, T))  # the wrist is the root
    probe = sum((o.heatmaps * torch.randn_like(o.heatmaps)).sum() + (o.depth_rel**2).sum() for o in outputs)
    (probe + sum((o.logits * torch.arange(A)).sum() for o in outputs)).backward()
    without = [name for name, parameter in network.named_parameters() if parameter.grad is None]
    zero = [
        name
        for name, parameter in network.named_parameters()
        if parameter.grad is not None and not parameter.grad.any()
    ]
    assert without == [] and zero == []


def test_gesture_labels_alone_reach_the_trunk_and_the_pose_sub_network(params):
    """What weak supervision of poses by gestures lives on (Sec. 3.4)."""
    torch.manual_seed(0)
    network = build_network(params.network, build_trunk(params.network), gestures=A, image_size=S)
    network(*video())[-1].logits.square().sum().backward()
    assert network.trunk.stem[0].weight.grad.any()
    assert network.iterations[0].pose.to_heatmaps[0].weight.grad.any()


def test_clips_do_not_see_each_other(params):
    torch.manual_seed(0)
    network = build_network(params.network, build_trunk(params.network), gestures=A, image_size=S).eval()
    frames, valid = video()
    valid = torch.tensor([[True, True, True], [True, True, False]])
    with torch.no_grad():
        together = network(frames, valid)[-1]
        for b in range(B):
            alone = network(frames[b : b + 1], valid[b : b + 1])[-1]
            torch.testing.assert_close(alone.heatmaps, together.heatmaps[b : b + 1], rtol=1e-4, atol=1e-5)
            torch.testing.assert_close(alone.logits, together.logits[b : b + 1], rtol=1e-4, atol=1e-5)


def test_poses_of_a_frame_depend_on_the_clip_only_through_later_iterations(params):
    """The first iteration's pose is of the image alone; the second's has seen 𝒢 (Fig. 1)."""
    settings = params.network.model_copy(update={"detach_slow_fast": False})
    torch.manual_seed(0)
    network = build_network(settings, build_trunk(settings), gestures=A, image_size=S).eval()
    frames, valid = video()
    for iteration, reaches in ((0, False), (1, True)):
        leaf = frames.clone().requires_grad_()
        network(leaf, valid)[iteration].heatmaps[:, 0].square().sum().backward()
        assert leaf.grad[:, 0].any() and bool(leaf.grad[:, 2].any()) == reaches


def test_heatmap_network_shares_its_trunk(params):
    trunk = initial_trunk(params.network, seed=0)
    heatmaps = build_heatmap_network(params.network, trunk)(*video())
    assert heatmaps.shape == (B, T, JOINTS, S // 4, S // 4)
    heatmaps.sum().backward()
    assert trunk.to_joints.weight.grad.any()


def test_same_seed_same_trunk(params):
    one, two, other = (initial_trunk(params.network, seed=seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)


def test_overfits_one_batch(params, prepared):
    """One batch to 100 % accuracy and PCK@20 above 95 %, in evaluation mode, through decoding and back-projection."""
    settings = params.network.model_copy(update={"channels": 3, "head_channels": 32, "streams": STREAMS})
    videos = tuple({video.gesture: video for video in prepared.split("train")}.values())  # one of each class
    loader = training_loader(prepared, videos, segments=5, clips_per_batch=len(videos), seed=0, epoch=1)
    (batch,) = list(loader)
    torch.manual_seed(0)
    network = build_network(settings, build_trunk(settings), gestures=len(prepared.gestures), image_size=S)
    criterion = CollaborativeCriterion(LossSettings(heatmap=1.0, depth=0.001, gesture=0.001))
    optimiser = torch.optim.Adam(network.parameters(), lr=2e-3, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, max_lr=4e-3, total_steps=110)
    for _ in range(110):
        losses = criterion(network(batch.video, batch.frame_valid), batch)
        optimiser.zero_grad()
        losses.total.backward()
        optimiser.step()
        schedule.step()
    execution = Execution(torch.device("cpu"), torch.float32)
    predictions = predict(infer(network, [batch], execution, title="overfit"), prepared, videos)
    seen = predictions.frame_valid
    errors_mm = metrics.joint_errors(
        metrics.root_aligned(predictions.joints_cam_mm[seen]),
        metrics.root_aligned(predictions.true_joints_cam_mm[seen]),
    )
    assert (predictions.logits.argmax(axis=1) == predictions.gesture).all()
    assert (errors_mm <= 20.0).mean() > 0.95


def test_a_batch_without_any_valid_frame_gives_finite_numbers(params):
    network = build_network(params.network, build_trunk(params.network), gestures=A, image_size=S).eval()
    frames, valid = video()
    output = network(frames, torch.zeros_like(valid))[-1]
    assert torch.isfinite(output.logits).all() and torch.isfinite(output.heatmaps).all()


def test_uint8_and_float_frames_are_the_same(params):
    network = build_network(params.network, build_trunk(params.network), gestures=A, image_size=S).eval()
    frames, valid = video()
    whole = frames.round().to(torch.uint8)
    with torch.no_grad():
        assert torch.equal(network(whole, valid)[-1].logits, network(whole.float(), valid)[-1].logits)
