"""Write the trunk before any training, for each seed."""

from __future__ import annotations

from pathlib import Path

from gesturepose.backbone import initial_trunk
from gesturepose.checkpoint import save_weights
from gesturepose.errors import exit_on_input_error
from gesturepose.params import load_params
from gesturepose.tracking import stage_run

TRUNKS = Path("data/weak/trunks")


def main() -> None:
    params = load_params()
    with stage_run("trunks", params=params, sections=("network",)):
        header = {"backbone": params.network.backbone, "weights": params.network.weights}
        for seed in params.weak.seeds:
            trunk = initial_trunk(params.network, seed=seed)
            save_weights(TRUNKS / f"{seed}.safetensors", trunk.state_dict(), header)


if __name__ == "__main__":
    with exit_on_input_error():
        main()
