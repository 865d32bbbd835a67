"""The pipeline's two trainings: the trunk on poses alone, then the whole network (Sec. 3.5).

Where section `labels` withholds labels, fine-tuning sees the videos with pose labels alone, and each batch of the whole
network holds clips with both labels and clips with one (Sec. 3.4).
"""

from __future__ import annotations

from typing import Any

import torch

from gesturepose.data.clips import Stream
from gesturepose.data.labels import labelled_videos
from gesturepose.data.prepared import PreparedData
from gesturepose.errors import InputError
from gesturepose.experiment import Training, build_training
from gesturepose.losses import CollaborativeCriterion, HeatmapCriterion
from gesturepose.models.collaborative import build_heatmap_network, build_network
from gesturepose.models.trunk import Trunk
from gesturepose.parallel import ALONE, World
from gesturepose.params import LabelSettings, Params
from gesturepose.steps import StepTraining, check_shared_evenly


def finetuning(params: Params, data: PreparedData, trunk: Trunk, world: World = ALONE) -> Training:
    """The trunk with one 1×1 to heatmaps, under L2d alone, on the training videos with pose labels."""
    torch.manual_seed(params.finetune.seed)
    network = build_heatmap_network(params.network, trunk)
    labelled = _labelled(params.labels, data, "pose")
    videos = tuple(video for video in data.split("train") if video.key in labelled)
    return build_training(
        params, data, network, HeatmapCriterion(), params.finetune, world, section="finetune", train_videos=videos
    )


def collaborative_training(params: Params, data: PreparedData, trunk: Trunk, world: World = ALONE) -> Training:
    """The whole network, end to end, under Eq. 5.

    Raises:
        InputError: see `build_training`; or labels are withheld and a batch cannot hold clips with and without them.
    """
    torch.manual_seed(params.train.seed)
    network = build_network(params.network, trunk, gestures=len(data.gestures), image_size=data.image_size)
    return build_training(
        params,
        data,
        network,
        CollaborativeCriterion(params.loss),
        params.train,
        world,
        section="train",
        keep_best=params.train.select == "best",
        **_withheld(params, data, world),
    )


def _labelled(labels: LabelSettings, data: PreparedData, kind: Any) -> frozenset[str]:
    return labelled_videos(data.split("train"), getattr(labels, kind), kind=kind, seed=labels.seed)


def _withheld(params: Params, data: PreparedData, world: World) -> dict[str, Any]:
    """What a training needs beyond the usual where some videos lack a label; nothing where all have both."""
    pose, gesture = (_labelled(params.labels, data, kind) for kind in ("pose", "gesture"))
    videos = data.split("train")
    both = tuple(video for video in videos if video.key in pose & gesture)
    rest = tuple(video for video in videos if video.key not in pose & gesture)
    if not rest:
        return {}
    clips = params.train.clips_per_batch
    if clips < 2:
        raise InputError(
            "train.clips_per_batch is 1, but labels are withheld: a batch has clips with and without them",
            hint="Set it to 2 or more.",
        )
    count = min(max(1, round(params.labels.labelled_share * clips)), clips - 1)
    streams = (Stream(both, count), Stream(rest, clips - count))
    check_shared_evenly(streams, world)
    return {
        "kind": StepTraining,
        "streams": streams,
        "steps_an_epoch": max(1, len(videos) // clips),
        "pose_labelled": pose,
        "gesture_labelled": gesture,
    }
