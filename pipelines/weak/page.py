"""Draw the curves and write the page reports/weak/index.html."""

from __future__ import annotations

from pathlib import Path

from gesturepose.checkpoint import write_atomically
from gesturepose.curve_page import read_curves, render_curve_page
from gesturepose.errors import exit_on_input_error
from gesturepose.params import load_params
from gesturepose.tracking import stage_run

REPORT = Path("reports/weak")


def main() -> None:
    params = load_params()
    with stage_run("page", params=params, sections=()) as run:
        inputs = read_curves(params, REPORT)
        write_atomically(REPORT / "curves.png", inputs.figure.png)
        write_atomically(REPORT / "index.html", render_curve_page(inputs).encode())
        run.log_figure(REPORT / "curves.png")
        run.log_artifact(REPORT / "index.html")


if __name__ == "__main__":
    with exit_on_input_error():
        main()
