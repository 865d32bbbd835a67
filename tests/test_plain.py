"""The network equals the network as one would write it first: outputs and every gradient, in fp64."""

import pytest
import torch

from gesturepose.bench.plain import PlainNetwork
from gesturepose.bench.trainings import build_training, plain_variant, variant
from gesturepose.engine import train_epoch
from gesturepose.models.collaborative import build_network, build_trunk
from gesturepose.noise import random_batch

B, T, S, A = 2, 5, 32, 13
SETTINGS = {
    "one iteration": {"iterations": 1},
    "two iterations": {"iterations": 2},
    "three iterations": {"iterations": 3},
    "shared iterations": {"iterations": 3, "share_iterations": True},
    "residual depth head": {"depth_head": "residual"},
    "two streams": {"streams": ("second_fast", "zero"), "iterations": 2},
    "one stream that is not the zero-order one": {"streams": ("first_slow",)},
    "without multi-scale relations": {"multi_scale": False},
    "baseline of Table 1": {"iterations": 1, "streams": ("zero",), "multi_scale": False},
    "slow-fast weights with gradient": {"detach_slow_fast": False},
    "palm is the wrist": {"palm": "wrist"},
    "literal TCN input": {"tcn_grid": 1},
    "trunk of the paper's lineage": {"stages": 4, "lateral": False},
}
FRAMES = {
    "all frames": [[True] * T, [True] * T],
    "missing frames": [[True, True, False, True, True], [False, True, True, True, False]],
    "a clip without frames": [[True] * T, [False] * T],
}


def build(params, changes):
    """A network in fp64 whose layers that start near zero are away from it, so that they pass gradients on."""
    settings = params.network.model_copy(update={"channels": 3, "head_channels": 7, "tcn_width": 5} | changes)
    torch.manual_seed(5)
    network = build_network(settings, build_trunk(settings), gestures=A, image_size=S).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        for iteration in network.iterations:  # 1/3 and the like, which were made in fp32
            for mean in (iteration.gesture.relation.pool_parts, iteration.gesture.relation.pool_joints):
                mean /= mean.sum(dim=1, keepdim=True)
    return network.train()


def video():
    torch.manual_seed(11)
    return 255 * torch.rand(B, T, 3, S, S, dtype=torch.float64)


def results(network, frame_valid):
    """The outputs of all iterations, and the gradients of a probe of all of them by frames and by every parameter."""
    network.zero_grad()
    frames = video().requires_grad_()
    values = [value for output in network(frames, frame_valid) for value in vars(output).values()]
    probes = [torch.cos(torch.arange(value.numel(), dtype=torch.float64)).view_as(value) for value in values]
    sum((value * probe).sum() for value, probe in zip(values, probes, strict=True)).backward()
    gradients = {name: parameter.grad.clone() for name, parameter in network.named_parameters()}
    return [value.detach() for value in values], frames.grad, gradients


def assert_equal(network, frame_valid):
    plain = PlainNetwork(network)
    values, by_frames, by_parameter = results(network, frame_valid)
    plain_values, plain_by_frames, plain_by_parameter = results(plain, frame_valid)
    assert len(values) == 3 * network.rounds
    for value, plain_value in zip(values, plain_values, strict=True):
        torch.testing.assert_close(value, plain_value, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(by_frames, plain_by_frames, rtol=1e-10, atol=1e-10)
    assert by_parameter.keys() == plain_by_parameter.keys()
    for name, gradient in by_parameter.items():
        torch.testing.assert_close(gradient, plain_by_parameter[name], rtol=1e-10, atol=1e-10, msg=name)
    assert all(gradient.any() for gradient in by_parameter.values())


@pytest.mark.parametrize("setting", SETTINGS)
def test_network_equals_the_plain_one(setting, params):
    assert_equal(build(params, SETTINGS[setting]), torch.tensor(FRAMES["all frames"]))


@pytest.mark.parametrize("frames", FRAMES)
def test_network_equals_the_plain_one_with_missing_frames(frames, params):
    assert_equal(build(params, {"iterations": 2, "detach_slow_fast": False}), torch.tensor(FRAMES[frames]))


def test_network_that_computes_iterations_twice_equals_the_plain_one(params):
    network = build(params, {"iterations": 3})
    network.checkpointed = True
    assert_equal(network, torch.tensor(FRAMES["all frames"]))


def test_plain_network_shares_everything_and_counts_batches_alike(params):
    network = build(params, {"iterations": 2})
    plain = PlainNetwork(network)
    assert all(ours is theirs for ours, theirs in zip(network.parameters(), plain.parameters(), strict=True))
    assert network.state_dict().keys() == plain.state_dict().keys()
    valid = torch.tensor(FRAMES["all frames"])
    start = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    after = []
    for either in (network, plain):
        either.load_state_dict(start)
        either(video(), valid)
        after.append({name: tensor.clone() for name, tensor in either.state_dict().items()})
    for name, tensor in after[0].items():
        torch.testing.assert_close(tensor, after[1][name], rtol=1e-10, atol=1e-10, msg=name)
    assert any("running_mean" in name and not torch.equal(after[0][name], start[name]) for name in start)
    assert not PlainNetwork(network.eval()).training


def test_training_with_the_plain_network_is_the_same_training(params, prepared):
    """The same losses from the same start, up to float32's rounding."""
    batch = random_batch(2, 3, prepared.image_size, len(prepared.gestures))
    losses = []
    for chosen in (variant(params.runtime), plain_variant(params.runtime)):
        training = build_training(params, prepared, chosen)
        losses.append(
            train_epoch(
                training.replica, training.criterion, training.optimiser, [batch] * 3, training.execution,
                prepare=lambda unchanged: unchanged, title="steps",
            )
        )  # fmt: skip
    assert losses[0].keys() == losses[1].keys()
    for name, loss in losses[0].items():
        assert loss == pytest.approx(losses[1][name], rel=1e-3), name


def test_two_frames_are_refused(params):
    plain = PlainNetwork(build(params, {}))
    with pytest.raises(ValueError, match="at least 3 frames"):
        plain(video()[:, :2], torch.ones(B, 2, dtype=torch.bool))
