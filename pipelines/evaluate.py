"""Score the trained network on the test videos; the only stage that touches them."""

from __future__ import annotations

from pathlib import Path

from gesturepose.data.prepared import PreparedData
from gesturepose.errors import exit_on_input_error
from gesturepose.evaluation import evaluate_predictions, save_predictions, write_evaluation
from gesturepose.experiment import load_network, predict_videos, uses_gpu
from gesturepose.parallel import processes
from gesturepose.params import load_params
from gesturepose.tracking import stage_run

PREPARED = Path("data/prepared")
WEIGHTS = Path("data/models/train.safetensors")
PREDICTIONS = Path("data/predictions/test.npz")
REPORT = Path("reports/evaluate")


def main() -> None:
    params = load_params()
    with (
        processes(on_gpu=uses_gpu(params.runtime)) as world,
        stage_run("evaluate", params=params, sections=("runtime", "evaluate"), world=world) as run,
    ):
        data = PreparedData.open(PREPARED)
        run.log_dataset(data.name, data.fingerprint, PREPARED, context="test")
        predictions = predict_videos(
            load_network(WEIGHTS, data),
            data,
            data.split("test"),
            params.runtime,
            segments=params.train.segments,
            clips_per_batch=params.evaluate.clips_per_batch,
            world=world,
        )
        if not world.leads:
            return
        evaluation = evaluate_predictions(predictions, data, params.evaluate)
        save_predictions(predictions, PREDICTIONS)
        write_evaluation(evaluation, REPORT)
        run.log_final_metrics(evaluation.metrics)
        run.log_folder(REPORT, "evaluate")


if __name__ == "__main__":
    with exit_on_input_error():
        main()
