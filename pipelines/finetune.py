"""Make the backbone sensitive to hand joints: L2d alone (Sec. 3.5)."""

from __future__ import annotations

from pathlib import Path

from gesturepose.checkpoint import save_weights, write_atomically
from gesturepose.data.clips import PreparedData
from gesturepose.errors import exit_on_input_error
from gesturepose.experiment import finetuning, fit, history_table, load_trunk
from gesturepose.params import load_params
from gesturepose.tracking import stage_run

PREPARED = Path("data/prepared")
BACKBONE = Path("data/models/backbone.safetensors")
WEIGHTS = Path("data/models/finetune.safetensors")
HISTORY = Path("reports/finetune/history.csv")


def main() -> None:
    params = load_params()
    sections = ("network", "augment", "runtime", "finetune")
    with stage_run("finetune", params=params, sections=sections, resume=True) as run:
        data = PreparedData.open(PREPARED)
        run.log_dataset(data.name, data.fingerprint, PREPARED, context="training")
        trunk = load_trunk(params.network, BACKBONE)
        training = finetuning(params, data, trunk)
        for epoch in fit(training, run.checkpoint):
            print(epoch, flush=True)
            run.log_metrics(epoch.metrics, step=epoch.number)
        save_weights(WEIGHTS, trunk.state_dict(), {"backbone": params.network.backbone})
        table = history_table(training.history).round(6)
        write_atomically(HISTORY, table.to_csv(index=False, lineterminator="\n").encode())
        run.log_artifact(HISTORY)
        run.drop_checkpoint()


if __name__ == "__main__":
    with exit_on_input_error():
        main()
