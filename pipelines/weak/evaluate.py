"""Score every cell on the videos of `weak.split`; the only stage of these curves that touches them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import pandas as pd
from tqdm import tqdm

from gesturepose.cells import DIRECTIONS, all_cells
from gesturepose.checkpoint import write_atomically
from gesturepose.data.labels import LabelSubset
from gesturepose.data.prepared import PreparedData
from gesturepose.errors import exit_on_input_error
from gesturepose.experiment import load_network, predict_videos, uses_gpu
from gesturepose.matrix_files import weights_of
from gesturepose.parallel import processes
from gesturepose.params import load_params
from gesturepose.provenance import file_digest
from gesturepose.structures import Predictions
from gesturepose.tracking import stage_run
from gesturepose.video_scores import mean_answers, video_scores

PREPARED = Path("data/prepared")
LABELS = Path("data/weak/labels")
CELLS = Path("data/weak/cells")
REPORT = Path("reports/weak")


def main() -> None:
    params = load_params()
    settings = params.weak
    with (
        processes(on_gpu=uses_gpu(params.runtime)) as world,
        stage_run("evaluate", params=params, sections=("runtime", "evaluate", "weak"), world=world) as run,
    ):
        data = PreparedData.open(PREPARED)
        run.log_dataset(data.name, data.fingerprint, PREPARED, context=settings.split)
        by_name = {cell.name: cell for cell in all_cells(settings)}
        runtime = params.runtime.model_copy(update={"compile": False})  # a few batches of each of many networks
        cells, scores = [], []
        of_curve: dict[tuple[str, str, float], list[Predictions]] = {}
        files = weights_of(CELLS, by_name, pipeline="weak")
        for name, file in tqdm(files.items(), desc="cells", disable=None if world.leads else True):
            cell = by_name[name]
            predictions = predict_videos(
                load_network(file, data),
                data,
                data.split(settings.split),
                runtime,
                segments=settings.segments,
                clips_per_batch=params.evaluate.clips_per_batch,
                world=world,
            )
            labels = LabelSubset.read(LABELS, data, ratio=cell.ratio, seed=cell.seed)
            labelled = len(labels.pose if cell.direction == "pose" else labels.gesture)
            cells.append(asdict(cell) | {"labelled_videos": labelled, "weights": file_digest(file)})
            tasks = {task: task in cell.tasks for task in DIRECTIONS}
            scores.append(_of(asdict(cell), video_scores(predictions, data, **tasks)))
            if cell.direction == "gesture":
                of_curve.setdefault((cell.direction, cell.method, cell.ratio), []).append(predictions)
        if not world.leads:
            return
        means = [
            _of({"direction": direction, "method": method, "ratio": ratio}, mean_answers(of_seeds, data))
            for (direction, method, ratio), of_seeds in of_curve.items()
        ]
        tables = {"cells": pd.DataFrame(cells), "per_video": pd.concat(scores), "seed_mean": pd.concat(means)}
        for name, table in tables.items():
            path = REPORT / f"{name}.csv"
            write_atomically(path, table.to_csv(index=False, lineterminator="\n").encode())
            run.log_artifact(path)


def _of(identity: Mapping[str, object], table: pd.DataFrame) -> pd.DataFrame:
    """`table` with the columns of what it is of in front."""
    return pd.concat([pd.DataFrame(identity, index=table.index), table], axis=1)


if __name__ == "__main__":
    with exit_on_input_error():
        main()
