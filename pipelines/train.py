"""Train the whole collaborative network end to end (Eq. 5)."""

from __future__ import annotations

from pathlib import Path

from gesturepose.checkpoint import save_weights, write_atomically
from gesturepose.data.clips import PreparedData
from gesturepose.errors import exit_on_input_error
from gesturepose.experiment import collaborative_training, fit, history_table, load_trunk, network_header
from gesturepose.params import load_params
from gesturepose.tracking import stage_run

PREPARED = Path("data/prepared")
FINETUNED = Path("data/models/finetune.safetensors")
WEIGHTS = Path("data/models/train.safetensors")
HISTORY = Path("reports/train/history.csv")


def main() -> None:
    params = load_params()
    sections = ("network", "loss", "augment", "runtime", "train")
    with stage_run("train", params=params, sections=sections, resume=True) as run:
        data = PreparedData.open(PREPARED)
        run.log_dataset(data.name, data.fingerprint, PREPARED, context="training")
        training = collaborative_training(params, data, load_trunk(params.network, FINETUNED))
        for epoch in fit(training, run.checkpoint):
            print(epoch, flush=True)
            run.log_metrics(epoch.metrics, step=epoch.number)
        save_weights(WEIGHTS, training.weights(), network_header(params.network, data))
        table = history_table(training.history).round(6)
        write_atomically(HISTORY, table.to_csv(index=False, lineterminator="\n").encode())
        run.log_artifact(HISTORY)
        run.drop_checkpoint()


if __name__ == "__main__":
    with exit_on_input_error():
        main()
