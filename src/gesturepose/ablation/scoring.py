"""Each cell's answers to the videos of a split as small tables by video, and what its network costs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from gesturepose.ablation.rows import BOTH_STREAMS, GESTURE_ONLY
from gesturepose.data.prepared import PreparedData
from gesturepose.references.flow import STACK
from gesturepose.references.pose_lstm import PoseLstm
from gesturepose.references.two_stream import StreamNetwork, both_streams
from gesturepose.skeleton import JOINTS
from gesturepose.structures import Predictions
from gesturepose.video_scores import mean_answers, video_scores

_NONE = slice(0, 0)


@dataclass(frozen=True)
class Cost:
    """What a network is and does, per frame of a clip."""

    parameters: int
    gmac: float  # 10⁹ multiply-accumulates a frame

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.parameters + other.parameters, self.gmac + other.gmac)


class ScoreTables:
    """The tables of the evaluate stage, a row's seed after the other; `both` follows from the two streams."""

    def __init__(self) -> None:
        self._cells: list[dict[str, object]] = []
        self._per_video: list[pd.DataFrame] = []
        self._answers: dict[str, dict[int, Predictions]] = {}
        self._costs: dict[str, Cost] = {}
        self._data: PreparedData | None = None

    def add(self, row: str, seed: int, predictions: Predictions, data: PreparedData, weights: str, cost: Cost) -> None:
        """A cell's answers to the videos of a split, the digest of its weights, and its cost."""
        self._data = data
        self._cells.append(
            {
                "row": row,
                "seed": seed,
                "weights": weights,
                "data": data.fingerprint,
                "parameters": cost.parameters,
                "gmac_a_frame": round(cost.gmac, 6),
            }
        )
        scores = video_scores(predictions, data, pose=row not in GESTURE_ONLY, gesture=True)
        identity = pd.DataFrame({"row": row, "seed": seed}, index=scores.index)
        self._per_video.append(pd.concat([identity, scores], axis=1))
        self._answers.setdefault(row, {})[seed] = _answers_alone(predictions)
        self._costs[row] = cost

    def add_both_streams(self) -> None:
        """The mean of the scores of `colour` and `flow`, where both are there."""
        if not {"colour", "flow"} <= self._answers.keys() or self._data is None:
            return
        cost = self._costs["colour"] + self._costs["flow"]
        for seed, colour in self._answers["colour"].items():
            both = both_streams(colour, self._answers["flow"][seed])
            self.add(BOTH_STREAMS, seed, both, self._data, "", cost)

    def tables(self) -> dict[str, pd.DataFrame]:
        """cells (row, seed, weights, data, parameters, gmac_a_frame), per_video, seed_mean (row, video, correct)."""
        assert self._data is not None
        means = []
        for row, of_seeds in self._answers.items():
            answers = mean_answers(list(of_seeds.values()), self._data)
            means.append(pd.concat([pd.DataFrame({"row": row}, index=answers.index), answers], axis=1))
        return {
            "cells": pd.DataFrame(self._cells),
            "per_video": pd.concat(self._per_video),
            "seed_mean": pd.concat(means),
        }


def network_cost(network: nn.Module, data: PreparedData, *, segments: int) -> Cost:
    """Parameters, and multiply-accumulates of one clip of `segments` frames, a frame, as the network runs here.

    That is of the composed network, whose chains of 1×1 convolutions are one and whose five streams cost one (the
    network as the paper draws it would have more), of convolutions and matrix products alone. Optical flow is not in.
    """
    device = next(network.parameters()).device
    frame_valid = torch.ones(1, segments, dtype=torch.bool, device=device)
    network.eval()
    # oneDNN's LSTM is one operation, which the counter does not know.
    known = {torch.ops.aten.mkldnn_rnn_layer: _lstm_flops}
    with torch.inference_mode(), FlopCounterMode(display=False, custom_mapping=known) as counter:
        network(_clip(network, data, segments).to(device), frame_valid)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return Cost(parameters, counter.get_total_flops() / 2 / segments / 1e9)


def _lstm_flops(
    input_shape: Sequence[int], weight_ih: Sequence[int], weight_hh: Sequence[int], *_: object, **__: object
) -> int:
    """Of the shapes of an LSTM layer's input [T, B, F] and of its two weights."""
    steps, clips = input_shape[:2]
    return 2 * steps * clips * (math.prod(weight_ih) + math.prod(weight_hh))


def _clip(network: nn.Module, data: PreparedData, segments: int) -> Tensor:
    if isinstance(network, PoseLstm):
        return torch.zeros(1, segments, JOINTS, 3)
    flow = isinstance(network, StreamNetwork) and network.mean.dim() == 0
    return torch.zeros(1, segments, 2 * STACK if flow else 3, data.image_size, data.image_size)


def _answers_alone(predictions: Predictions) -> Predictions:
    """Without poses, which take a hundred times as much memory."""
    poses = ("uv_px", "joints_cam_mm", "true_uv_px", "true_joints_cam_mm")
    return replace(predictions, **{name: getattr(predictions, name)[:, _NONE] for name in poses})
