"""Run by torchrun from test_parallel.py, and by itself for one process: writes what the leading process has.

Usage: parallel_worker.py PARAMS PREPARED OUT
"""

import sys
from dataclasses import replace
from pathlib import Path

import torch

from gesturepose.backbone import initial_trunk
from gesturepose.data.clips import training_loader
from gesturepose.data.prepared import PreparedData
from gesturepose.engine import losses_of
from gesturepose.experiment import fit, predict_videos
from gesturepose.parallel import processes, replicated
from gesturepose.params import load_params
from gesturepose.trainings import collaborative_training

CLIPS = 4


def one_step(params, data, world):
    """Loss, gradients and statistics of a batch in float64; only its first clips have labels of each kind."""
    videos = data.split("train")
    training = collaborative_training(params, data, initial_trunk(params.network, seed=3))
    network = training.network.double()
    execution = replace(training.execution, world=world)
    replica = replicated(network, world, execution.device)
    drawn = training_loader(
        data, videos, segments=5, clips_per_batch=CLIPS, seed=0, epoch=1, world=world,
        pose_labelled=frozenset(video.key for video in videos[::3]),
        gesture_labelled=frozenset(video.key for video in videos[::2]),
    )  # fmt: skip
    batch = next(iter(drawn))
    replica.train()
    losses = losses_of(replica, training.criterion, batch, execution)
    losses.total.backward()
    return {
        "losses": [world.sum(value) / world.size for value in vars(losses).values()],
        "labels": [int(world.sum(valid.sum())) for valid in (batch.joint_valid, batch.gesture_valid)],
        "own_labels": [int(batch.joint_valid.sum()), int(batch.gesture_valid.sum())],
        "gradients": {name: parameter.grad for name, parameter in network.named_parameters()},
        "buffers": dict(network.named_buffers()),
    }  # fmt: skip


def main():
    params, data, out = load_params(Path(sys.argv[1])), PreparedData.open(sys.argv[2]), Path(sys.argv[3])
    with processes(on_gpu=False) as world:
        step = one_step(params, data, world)
        training = collaborative_training(params, data, initial_trunk(params.network, seed=3), world)
        epochs = [epoch.metrics for epoch in fit(training, out.with_suffix(".state"))]
        trunk = initial_trunk(params.network, seed=4)
        fixed = collaborative_training(params, data, trunk).network  # the same weights for any number of processes
        predictions = predict_videos(
            fixed, data, data.split("test"), params.runtime, segments=5, clips_per_batch=3, world=world
        )
        everyone = [None] * world.size
        if world.size > 1:
            torch.distributed.all_gather_object(everyone, [epoch["validation/value"] for epoch in epochs])
        if world.leads:
            torch.save({"step": step, "epochs": epochs, "everyone": everyone, "predictions": vars(predictions)}, out)


if __name__ == "__main__":
    main()
