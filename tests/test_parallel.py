"""Two processes are one: whole-batch losses, gradients and statistics, and gathered metrics to the bit."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from gesturepose.backbone import initial_trunk
from gesturepose.data.clips import evaluation_loader, training_loader
from gesturepose.errors import InputError
from gesturepose.parallel import WholeBatchNorm2d, World
from gesturepose.params import apply_profile
from gesturepose.trainings import collaborative_training

WORKER = Path(__file__).parent / "parallel_worker.py"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


def run(arguments):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def results(prepared, tmp_path_factory):
    """What one process and two have, of the same training."""
    folder = tmp_path_factory.mktemp("parallel")
    params = folder / "params.yaml"
    params.write_text((Path(__file__).parent.parent / "params.yaml").read_text())
    apply_profile("test", params)
    run([WORKER, params, prepared.folder, folder / "one.pt"])
    run([*TORCHRUN, WORKER, params, prepared.folder, folder / "two.pt"])
    return [torch.load(folder / f"{name}.pt", weights_only=False) for name in ("one", "two")]  # our own arrays


def test_losses_and_gradients_are_those_of_the_whole_batch(results):
    one, two = (result["step"] for result in results)
    assert one["labels"] == two["labels"] and min(one["labels"]) > 0
    assert two["own_labels"] != [count / 2 for count in two["labels"]], "the halves must differ for this to say much"
    torch.testing.assert_close(two["losses"], one["losses"], rtol=1e-10, atol=1e-12)
    assert one["gradients"].keys() == two["gradients"].keys()
    for name, gradient in one["gradients"].items():
        scale = gradient.abs().max().item() + 1e-6
        torch.testing.assert_close(two["gradients"][name], gradient, rtol=0, atol=1e-10 * scale, msg=name)


def test_statistics_are_those_of_the_whole_batch(results):
    one, two = (result["step"]["buffers"] for result in results)
    assert any(name.endswith("running_var") for name in one) and one.keys() == two.keys()
    for name, buffer in one.items():
        torch.testing.assert_close(two[name], buffer, rtol=1e-10, atol=1e-10, msg=name)


def test_a_whole_training_is_the_same_but_for_rounding(results):
    one, two = results
    assert len(one["epochs"]) == len(two["epochs"]) == 2
    for epoch, other in zip(one["epochs"], two["epochs"], strict=True):
        assert epoch.keys() == other.keys()
        assert abs(epoch["train/loss"] - other["train/loss"]) < 1e-3 * epoch["train/loss"]
    assert two["everyone"][0] == two["everyone"][1], "each process has to choose the same best epoch"


def test_gathered_predictions_are_those_of_one_process_to_the_bit(results):
    one, two = (result["predictions"] for result in results)
    assert one["frame_valid"].all()
    for name, array in one.items():
        np.testing.assert_array_equal(two[name], array, err_msg=name)


def test_the_order_of_samples_does_not_depend_on_the_number_of_processes(prepared):
    videos = prepared.split("train")

    def clips(size):
        worlds = [World(rank, size) for rank in range(size)]
        loaders = [
            training_loader(prepared, videos, segments=5, clips_per_batch=6, seed=1, epoch=2, world=world)
            for world in worlds
        ]
        return [
            torch.cat([torch.cat([part.video_index[:, None], part.frame_index], dim=1) for part in parts])
            for parts in zip(*loaders, strict=True)
        ]

    alone = clips(1)
    assert len(alone) > 1
    for size in (2, 3, 6):
        for batch, divided in zip(alone, clips(size), strict=True):
            assert torch.equal(batch, divided)


def test_each_test_batch_is_of_one_process(prepared):
    videos = prepared.split("test")
    whole = list(evaluation_loader(prepared, videos, segments=5, clips_per_batch=3))
    parts = [
        list(evaluation_loader(prepared, videos, segments=5, clips_per_batch=3, world=World(rank, 2)))
        for rank in range(2)
    ]
    assert [len(part) for part in parts] == [(len(whole) + 1) // 2, len(whole) // 2]
    for number, batch in enumerate(whole):
        assert torch.equal(batch.frame_index, parts[number % 2][number // 2].frame_index)


def test_a_batch_that_cannot_be_divided_is_refused(prepared):
    with pytest.raises(InputError, match="6 clips cannot be divided evenly among 4 processes"):
        training_loader(
            prepared, prepared.split("train"), segments=5, clips_per_batch=6, seed=0, epoch=1, world=World(0, 4)
        )


def test_a_setting_that_cannot_be_divided_is_named(prepared, params):
    settings = params.model_copy(update={"train": params.train.model_copy(update={"clips_per_batch": 3})})
    with pytest.raises(InputError, match=r"train\.clips_per_batch is 3, but 2 processes share each batch"):
        collaborative_training(settings, prepared, initial_trunk(params.network, seed=0), World(0, 2))


def test_more_processes_than_gpus_are_refused(tmp_path):
    script = tmp_path / "on_gpu.py"
    script.write_text(
        "from gesturepose.parallel import processes\n"
        "from gesturepose.errors import exit_on_input_error\n"
        "with exit_on_input_error(), processes(on_gpu=True): print('started')\n"
    )
    done = subprocess.run([sys.executable, *TORCHRUN, script], capture_output=True, text=True, check=False)
    gpus = torch.cuda.device_count()
    if gpus < 2:
        assert done.returncode != 0 and f"2 processes on this machine, but {gpus} GPUs" in done.stdout + done.stderr
    else:
        assert done.returncode == 0 and "started" in done.stdout


def test_whole_batch_norm_is_batch_norm_in_one_process(monkeypatch):
    """Same outputs, gradients and statistics as PyTorch's, on a batch of odd size."""
    monkeypatch.setattr("gesturepose.parallel._sum", lambda value: value)  # no process group here
    x = torch.randn(3, 5, 7, 2, dtype=torch.float64)
    plain, whole = torch.nn.BatchNorm2d(5).double(), WholeBatchNorm2d(5).double()
    for norm in (plain, whole):
        torch.nn.init.uniform_(norm.weight, generator=torch.Generator().manual_seed(1))
    results = []
    for norm in (plain, whole):
        leaf = x.clone().requires_grad_()
        (norm(leaf) * torch.arange(7.0)[:, None]).square().sum().backward()
        results.append([leaf.grad, norm.weight.grad, norm.bias.grad, norm.running_mean, norm.running_var])
    torch.testing.assert_close(results[0], results[1], rtol=1e-12, atol=1e-12)
