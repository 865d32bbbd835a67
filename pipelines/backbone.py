"""Write the trunk before any training: ImageNet's weights, a local file's, or random ones."""

from __future__ import annotations

from pathlib import Path

from gesturepose.backbone import initial_trunk
from gesturepose.checkpoint import save_weights
from gesturepose.errors import exit_on_input_error
from gesturepose.params import load_params
from gesturepose.tracking import stage_run

WEIGHTS = Path("data/models/backbone.safetensors")


def main() -> None:
    params = load_params()
    with stage_run("backbone", params=params, sections=("network",)) as run:
        trunk = initial_trunk(params.network, seed=params.finetune.seed)
        header = {"backbone": params.network.backbone, "weights": params.network.weights}
        save_weights(WEIGHTS, trunk.state_dict(), header)
        run.log_final_metrics({"parameters": sum(parameter.numel() for parameter in trunk.parameters())})


if __name__ == "__main__":
    with exit_on_input_error():
        main()
