"""The training of a row that is a collaborative network: all labels, a fixed number of steps, the last one kept."""

from __future__ import annotations

import torch

from gesturepose.ablation.rows import row_settings
from gesturepose.data.clips import Stream
from gesturepose.data.prepared import PreparedData
from gesturepose.experiment import Training
from gesturepose.losses import CollaborativeCriterion
from gesturepose.models.collaborative import build_network
from gesturepose.models.trunk import Trunk
from gesturepose.parallel import ALONE, World
from gesturepose.params import Params
from gesturepose.steps import step_training


def row_training(
    params: Params, data: PreparedData, trunk: Trunk, row: str, seed: int, world: World = ALONE
) -> Training:
    """The row's network around `trunk`, which is fine-tuned on the poses of all training videos.

    The rows of a seed see the same clips in the same order.
    """
    settings = params.ablation
    torch.manual_seed(seed)
    network = build_network(
        row_settings(row, params.network), trunk, gestures=len(data.gestures), image_size=data.image_size
    )
    return step_training(
        params,
        data,
        network,
        CollaborativeCriterion(params.loss),
        settings,
        world,
        streams=(Stream(data.split("train"), settings.clips_per_batch),),
        steps=settings.train_steps,
        learning_rate=settings.learning_rate,
        seed=seed,
    )
