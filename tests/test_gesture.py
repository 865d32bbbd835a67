"""The gesture sub-network: the shortcut equals the plain module, and the laws of Sec. 3.2."""

import itertools

import pytest
import torch

from gesturepose.bench.plain import plain_relation
from gesturepose.models.gesture import MultiOrderRelation, motion_magnitudes, slow_fast_weights
from gesturepose.params import STREAMS

PARTS = ((2,), (3, 4), (0, 1, 5, 6))  # 7 joints
B, T, J, C, H, W, A = 2, 5, 7, 3, 4, 6, 13
SUBSETS = [subset for size in range(1, 6) for subset in itertools.combinations(STREAMS, size)]


def build(streams=STREAMS, *, multi_scale=True, detach=True, grid=2):
    torch.manual_seed(3)
    module = MultiOrderRelation(
        parts=PARTS, channels=C, gestures=A, streams=streams, multi_scale=multi_scale, grid=grid,
        tcn_layers=2, tcn_width=5, detach_slow_fast=detach,
    ).double()  # fmt: skip
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return module


def features(clips=B, frames=T):
    torch.manual_seed(11)
    return torch.randn(clips, frames, J, C, H, W, dtype=torch.float64)


def relate(module, zero_order, valid):
    """𝒢 [B, T, J, C, H, W], built of the mix of joints that the module gives, and the logits."""
    mix, logits = module(zero_order, valid)
    return torch.einsum("btij,btjchw->btichw", mix, zero_order), logits


def results_and_gradients(call, module, zero_order):
    module.zero_grad()
    leaf = zero_order.clone().requires_grad_()
    maps, logits = call(leaf)
    probe = torch.sin(torch.arange(maps.numel(), dtype=torch.float64)).view_as(maps)
    ((maps * probe).sum() + (logits * torch.arange(A)).sum()).backward()
    gradients = {name: parameter.grad.clone() for name, parameter in module.named_parameters()}
    return maps.detach(), logits.detach(), leaf.grad, gradients


def assert_equal_to_plain(module, zero_order, valid):
    fast = results_and_gradients(lambda x: relate(module, x, valid), module, zero_order)
    plain = results_and_gradients(lambda x: plain_relation(module, x, valid, PARTS), module, zero_order)
    for ours, reference in zip(fast[:3], plain[:3], strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-10)
    for name, gradient in plain[3].items():
        torch.testing.assert_close(fast[3][name], gradient, rtol=1e-10, atol=1e-10, msg=name)


@pytest.mark.parametrize("streams", SUBSETS, ids="+".join)
def test_shortcut_equals_plain_for_every_subset(streams):
    assert_equal_to_plain(build(streams), features(), torch.ones(B, T, dtype=torch.bool))


@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize("multi_scale", [True, False])
def test_shortcut_equals_plain_with_missing_frames(detach, multi_scale):
    valid = torch.tensor([[True, True, False, True, True], [True, True, True, True, False]])
    assert_equal_to_plain(build(multi_scale=multi_scale, detach=detach), features(), valid)


def test_shortcut_equals_plain_on_repeated_frames_and_equal_motion():
    zero_order = features()
    zero_order[0, 2] = zero_order[0, 1]  # a repeated frame: FD = 0 for every joint
    step = torch.randn(1, C, H, W, dtype=torch.float64)
    for t in range(1, T):
        zero_order[1, t] = zero_order[1, t - 1] + step  # all joints move alike, without acceleration
    assert_equal_to_plain(build(), zero_order, torch.ones(B, T, dtype=torch.bool))


def test_repeated_frames_leave_no_nan_when_the_weights_are_not_detached():
    zero_order = torch.zeros(1, T, J, C, H, W, dtype=torch.float64, requires_grad=True)
    maps, logits = relate(build(detach=False), zero_order, torch.ones(1, T, dtype=torch.bool))
    (maps.sum() + logits.sum()).backward()
    assert torch.isfinite(zero_order.grad).all() and torch.isfinite(logits).all()


def test_slow_and_fast_weights_are_the_papers_gaussians():
    slow, fast = slow_fast_weights(torch.tensor([[1.0, 2.5, 4.0]], dtype=torch.float64))
    assert slow[0, 0] == 1.0 and fast[0, 2] == 1.0
    torch.testing.assert_close(slow[0, 1], fast[0, 1])  # the middle of the range
    assert abs(slow[0, 2].item() - 0.0111) < 1e-3 and abs(fast[0, 0].item() - 0.0111) < 1e-3  # exp(−4.5)


def test_joints_that_move_alike_weigh_one():
    for magnitude in (0.0, 1e-6, 7.0):
        slow, fast = slow_fast_weights(torch.full((2, J), magnitude))
        assert torch.equal(slow, torch.ones(2, J)) and torch.equal(fast, torch.ones(2, J))


def test_ends_repeat_the_difference():
    zero_order = features(clips=1)
    magnitudes = motion_magnitudes(zero_order, torch.ones(1, T, dtype=torch.bool))
    assert torch.equal(magnitudes["first"][0, 0], magnitudes["first"][0, 1])
    assert torch.equal(magnitudes["second"][0, 0], magnitudes["second"][0, 1])
    assert torch.equal(magnitudes["second"][0, -1], magnitudes["second"][0, -2])
    eq_4 = zero_order[0, 3] - 2 * zero_order[0, 2] + zero_order[0, 1]
    torch.testing.assert_close(magnitudes["second"][0, 2], eq_4.flatten(1).norm(dim=1))


@pytest.mark.parametrize("multi_scale", [True, False])
def test_padding_changes_nothing(multi_scale):
    module, zero_order = build(multi_scale=multi_scale), features()
    maps, logits = relate(module, zero_order, torch.ones(B, T, dtype=torch.bool))
    padded = torch.cat([zero_order, torch.randn(B, 3, J, C, H, W, dtype=torch.float64)], dim=1)
    valid = (torch.arange(T + 3) < T).expand(B, -1)
    padded_maps, padded_logits = relate(module, padded, valid)
    torch.testing.assert_close(padded_logits, logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(padded_maps[:, :T], maps, rtol=1e-12, atol=1e-12)


def test_batched_equals_single():
    module, zero_order = build(), features()
    valid = torch.tensor([[True] * T, [True] * (T - 1) + [False]])
    maps, logits = relate(module, zero_order, valid)
    for b in range(B):
        single_maps, single_logits = relate(module, zero_order[b : b + 1], valid[b : b + 1])
        torch.testing.assert_close(maps[b : b + 1], single_maps)
        torch.testing.assert_close(logits[b : b + 1], single_logits)


def test_two_frames_are_refused():
    with pytest.raises(ValueError, match="at least 3 frames"):
        build()(features(frames=2), torch.ones(B, 2, dtype=torch.bool))


def test_order_of_time_matters_to_the_logits():
    module, zero_order = build(), features()
    valid = torch.ones(B, T, dtype=torch.bool)
    assert not torch.allclose(module(zero_order, valid)[1], module(zero_order.flip(1), valid)[1])


def test_parts_have_to_cover_each_joint_once():
    with pytest.raises(ValueError, match="exactly one part"):
        MultiOrderRelation(
            parts=((0, 1), (1, 2)), channels=C, gestures=A, streams=("zero",), multi_scale=True, grid=1,
            tcn_layers=1, tcn_width=2, detach_slow_fast=True,
        )  # fmt: skip
