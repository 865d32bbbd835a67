"""Score every row and seed on the videos of `ablation.split`; the only stage of these tables that touches them."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from gesturepose.ablation.rows import COMPLETE, CROP_ROW, network_rows, reference_rows
from gesturepose.ablation.scoring import Cost, ScoreTables, network_cost
from gesturepose.checkpoint import write_atomically
from gesturepose.data.prepared import PreparedData
from gesturepose.errors import exit_on_input_error
from gesturepose.experiment import load_network, predict_videos
from gesturepose.matrix_files import weights_of
from gesturepose.params import load_params
from gesturepose.provenance import file_digest
from gesturepose.references.cells import load_reference, predict_with_reference
from gesturepose.references.flow import FlowStacks
from gesturepose.references.gesture_only import FrameInput
from gesturepose.references.pose_lstm import FramePoses
from gesturepose.structures import Predictions
from gesturepose.tracking import stage_run

PREPARED = Path("data/prepared")
OTHER_CROP = "data/ablation/prepared_{}"
FLOW = Path("data/ablation/flow.npy")
CELLS = Path("data/ablation/cells")
REPORT = Path("reports/ablation")


def main() -> None:
    params = load_params()
    settings = params.ablation
    with stage_run("evaluate", params=params, sections=("runtime", "evaluate", "ablation")) as run:
        data = PreparedData.open(PREPARED)
        run.log_dataset(data.name, data.fingerprint, PREPARED, context=settings.split)
        other_crops = {
            CROP_ROW.format(crop): PreparedData.open(OTHER_CROP.format(crop)) for crop in settings.crops
        }  # fmt: skip
        rows = (*network_rows(settings), *reference_rows(settings))
        cells = {f"{row}-{seed}": (row, seed) for row in rows for seed in settings.seeds}
        runtime = params.runtime.model_copy(update={"compile": False})  # a few batches of each of many networks
        tables = ScoreTables()
        poses: dict[int, tuple[Predictions, Cost]] = {}  # of the complete network, by seed
        files = weights_of(CELLS, cells, pipeline="ablation")
        for cell, file in tqdm(files.items(), desc="cells", disable=None):
            row, seed = cells[cell]
            of_row = other_crops.get(row, data)
            if row in network_rows(settings):
                network = load_network(file, of_row)
                cost = network_cost(network, of_row, segments=settings.segments)
                predictions = predict_videos(
                    network,
                    of_row,
                    of_row.split(settings.split),
                    runtime,
                    segments=settings.segments,
                    clips_per_batch=params.evaluate.clips_per_batch,
                )
                if row == COMPLETE:
                    poses[seed] = predictions, cost
            else:
                name, reference = load_reference(file, params.network, data)
                cost = network_cost(reference, data, segments=settings.segments)
                frame_input: FrameInput | None = None
                if name == "flow":
                    frame_input = FlowStacks.open(FLOW, data)
                elif name == "lstm_annotated":
                    frame_input = FramePoses.annotated(data)
                elif name == "lstm_predicted":  # and what it takes to have its poses
                    frame_input = FramePoses.predicted(data, poses[seed][0])
                    cost += poses[seed][1]
                predictions = predict_with_reference(reference, frame_input, data, data.split(settings.split), params)
            tables.add(row, seed, predictions, of_row, file_digest(file), cost)
        tables.add_both_streams()
        for name, table in tables.tables().items():
            path = REPORT / f"{name}.csv"
            write_atomically(path, table.to_csv(index=False, lineterminator="\n").encode())
            run.log_artifact(path)


if __name__ == "__main__":
    with exit_on_input_error():
        main()
