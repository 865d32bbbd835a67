"""The ways to run a step — compiled, checkpointed, prefetched, on a GPU: none of them changes what it says."""

import gc
import os
import shutil
import threading
from dataclasses import fields, replace

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from gesturepose.backbone import initial_trunk
from gesturepose.data.augment import Augmentation, change_colours, warp_points, warp_video
from gesturepose.data.clips import evaluation_loader, training_loader
from gesturepose.data.delivery import Prefetched, resident_pixels
from gesturepose.engine import LossMeans, losses_of, train_epoch
from gesturepose.errors import InputError
from gesturepose.experiment import prepare_execution
from gesturepose.heatmaps import decode_heatmaps
from gesturepose.parallel import ALONE
from gesturepose.structures import ClipBatch
from gesturepose.trainings import collaborative_training


def with_runtime(params, **changes):
    return params.model_copy(update={"runtime": params.runtime.model_copy(update=changes)})


def batches(data, clips=3):
    return training_loader(data, data.split("train"), segments=5, clips_per_batch=clips, seed=0, epoch=1)


def step(training, batch):
    """Losses, gradients and buffers of one step in training mode."""
    network = training.network.train()
    losses = training.execution.compile(losses_of)(network, training.criterion, batch, training.execution)
    losses.total.backward()
    return [value.detach() for value in vars(losses).values()] + [
        *(parameter.grad for parameter in network.parameters()),
        *network.buffers(),
    ]


def in_float64(params, data, **runtime):
    training = collaborative_training(with_runtime(params, **runtime), data, initial_trunk(params.network, seed=0))
    training.network.double()
    return training


def test_checkpointed_iterations_change_nothing(params, prepared):
    batch = next(iter(batches(prepared)))
    plain = step(in_float64(params, prepared), batch)
    checkpointed = in_float64(params, prepared, checkpoint_iterations=True)
    assert checkpointed.network.checkpointed
    for expected, found in zip(plain, step(checkpointed, batch), strict=True):
        assert torch.equal(expected, found)


def test_checkpointed_iterations_keep_fewer_activations(params, prepared):
    batch = next(iter(batches(prepared)))

    def kept_bytes(training):
        storages = {}

        def keep(tensor):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            losses_of(training.network.train(), training.criterion, batch, training.execution)
        return sum(storages.values())

    settings = params.model_copy(update={"network": params.network.model_copy(update={"iterations": 5, "channels": 8})})
    plain = kept_bytes(in_float64(settings, prepared))
    assert kept_bytes(in_float64(settings, prepared, checkpoint_iterations=True)) < 0.5 * plain


def test_compiling_needs_a_compiler(params, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(InputError, match="no C"):
        prepare_execution(with_runtime(params, compile=True).runtime)


@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_step_is_the_plain_step(params, prepared):
    """With PyTorch's own compiler, in float64, losses, gradients and statistics."""
    settings = params.model_copy(update={"network": params.network.model_copy(update={"iterations": 1})})
    batch = next(iter(batches(prepared)))
    plain = step(in_float64(settings, prepared), batch)
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    compiled = step(in_float64(settings, prepared, compile=True), batch)
    assert counters["stats"]["unique_graphs"] == 1 and not counters["graph_break"], "one program for the whole step"
    scale = max(tensor.abs().max().item() for tensor in plain)
    for expected, found in zip(plain, compiled, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12 * scale)


def test_compile_and_checkpoints_exclude_each_other(params):
    with pytest.raises(ValueError, match="a compiled step has no checkpoints"):
        type(params.runtime).model_validate(
            params.runtime.model_dump() | {"compile": True, "checkpoint_iterations": True}
        )


def test_tf32_needs_a_gpu(params):
    with pytest.raises(InputError, match="which only GPUs have"):
        prepare_execution(with_runtime(params, precision="tf32", device="cpu").runtime)


def equal(batch, other):
    return all(
        torch.equal(getattr(batch, f.name).nan_to_num(-1.0), getattr(other, f.name).nan_to_num(-1.0))
        for f in fields(ClipBatch)
    )


def test_prefetched_batches_are_the_loaders(prepared):
    loader = batches(prepared, clips=2)
    ahead = list(Prefetched(loader, torch.device("cpu")).ahead())
    assert len(ahead) == len(loader) > 2
    assert all(equal(batch, other) for batch, other in zip(loader, ahead, strict=True))


def test_prefetching_can_be_left_early_and_passes_errors_on(prepared):
    loader = batches(prepared, clips=2)
    for _ in Prefetched(loader, torch.device("cpu")).ahead():
        break
    gc.collect()  # the generator that was left
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("batches")]

    class Broken:
        def __len__(self):
            return 2

        def __iter__(self):
            yield next(iter(loader))
            raise InputError("the disk is gone")

    with pytest.raises(InputError, match="the disk is gone"):
        list(Prefetched(Broken(), torch.device("cpu")).ahead())


def test_resident_pixels_are_the_mapped_ones(prepared):
    assert resident_pixels(prepared, torch.device("cpu")) is None
    pixels = torch.from_numpy(prepared.frames.copy())
    for make in (
        lambda pixels: training_loader(
            prepared, prepared.split("train"), segments=5, clips_per_batch=3, seed=0, epoch=1, pixels=pixels
        ),
        lambda pixels: evaluation_loader(
            prepared, prepared.split("test"), segments=5, clips_per_batch=3, pixels=pixels
        ),
    ):
        assert all(equal(batch, other) for batch, other in zip(make(None), make(pixels), strict=True))


def test_loss_means_do_not_depend_on_the_batches(prepared):
    """The mean is over clips: a small last batch weighs less."""
    from gesturepose.losses import Losses

    means = LossMeans()
    for value, clips in ((1.0, 3), (5.0, 1)):
        means.add(Losses(*[torch.tensor(value)] * 4), clips)
    assert means.means(ALONE)["loss"] == 2.0
    assert LossMeans().means(ALONE)["loss"] == 0.0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_no_cpu_tensor_slips_into_a_step_on_a_gpu(params, prepared, precision):
    """Devices of augmentation, network, criterion and decoding on an imagined GPU, which refuses tensors of the CPU."""
    training = collaborative_training(
        with_runtime(params, precision=precision), prepared, initial_trunk(params.network, seed=0)
    )
    batch = next(iter(batches(prepared)))
    drawn = Augmentation.draw(params.augment, batch.video_index.tolist(), seed=0, epoch=1)
    cuda = torch.device("cuda:0")
    mode = FakeTensorMode()

    def imagined(tensor):
        return FakeTensor(mode, tensor.detach().to("meta"), cuda)

    moved = ClipBatch(**{f.name: imagined(getattr(batch, f.name)) for f in fields(ClipBatch)})
    drawn = Augmentation(**{f.name: imagined(getattr(drawn, f.name)) for f in fields(Augmentation)})
    network = training.network
    for module in network.modules():
        for name, parameter in module.named_parameters(recurse=False):
            module._parameters[name] = torch.nn.Parameter(imagined(parameter))
        for name, buffer in module.named_buffers(recurse=False):
            module._buffers[name] = imagined(buffer)
    with mode:
        video = change_colours(warp_video(moved.video, drawn), moved.frame_valid, drawn)
        moved = replace(
            moved, video=video, joints_uv_crop_px=warp_points(moved.joints_uv_crop_px, drawn, video.shape[-1])
        )
        execution = replace(training.execution, device=cuda)
        losses = losses_of(network.train(), training.criterion, moved, execution)
        assert losses.total.device.type == "cuda" and losses.total.requires_grad
        with execution.autocast():
            peaks = decode_heatmaps(network.eval()(moved.video, moved.frame_valid)[-1].heatmaps)
        assert peaks.device.type == "cuda"


def test_an_epoch_with_a_checkpointed_network_trains(params, prepared):
    training = collaborative_training(
        with_runtime(params, checkpoint_iterations=True), prepared, initial_trunk(params.network, seed=0)
    )
    losses = [
        train_epoch(
            training.network, training.criterion, training.optimiser, batches(prepared), training.execution,
            prepare=lambda batch: batch, title="epoch",
        )["loss"]
        for _ in range(3)
    ]  # fmt: skip
    assert losses[2] < losses[0]
