"""Write the synthetic dataset in FPHA's layout to data/synthetic."""

from __future__ import annotations

from pathlib import Path

from gesturepose.errors import exit_on_input_error
from gesturepose.params import SYNTHETIC_ROOT, load_params
from gesturepose.synthetic.writer import write_root
from gesturepose.tracking import stage_run


def main() -> None:
    params = load_params()
    settings = params.generate
    with stage_run("generate", params=params, sections=("generate",)) as run:
        root = Path(SYNTHETIC_ROOT)
        write_root(
            root,
            size=settings.size,
            image_width=settings.image_width,
            seed=settings.seed,
            device=settings.device,
            workers=params.runtime.workers,
        )
        run.log_artifact(root / "data_split_action_recognition.txt")


if __name__ == "__main__":
    with exit_on_input_error():
        main()
