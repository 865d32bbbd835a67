"""Draw the figures and the page reports/index.html."""

from __future__ import annotations

from pathlib import Path

from gesturepose.errors import exit_on_input_error
from gesturepose.page import read_inputs, write_figures, write_page
from gesturepose.params import load_params
from gesturepose.tracking import stage_run

FIGURES = Path("reports/figures")
PAGE = Path("reports/index.html")


def main() -> None:
    params = load_params()
    with stage_run("report", params=params, sections=()) as run:
        inputs = read_inputs(
            params,
            evaluation=Path("reports/evaluate"),
            prepared=Path("data/prepared"),
            predictions=Path("data/predictions/test.npz"),
            weights=Path("data/models/train.safetensors"),
            histories={stage: Path(f"reports/{stage}/history.csv") for stage in ("finetune", "train")},
        )
        write_figures(inputs, FIGURES)
        write_page(inputs, PAGE)
        for name in inputs.figures:
            run.log_figure(FIGURES / f"{name}.png")
        run.log_artifact(PAGE)


if __name__ == "__main__":
    with exit_on_input_error():
        main()
