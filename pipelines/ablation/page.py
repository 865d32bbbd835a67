"""Draw the figure and write the page reports/ablation/index.html."""

from __future__ import annotations

from pathlib import Path

from gesturepose.ablation.page import read_tables, render_tables_page
from gesturepose.checkpoint import write_atomically
from gesturepose.errors import exit_on_input_error
from gesturepose.params import load_params
from gesturepose.tracking import stage_run

REPORT = Path("reports/ablation")


def main() -> None:
    params = load_params()
    with stage_run("page", params=params, sections=()) as run:
        inputs = read_tables(params, REPORT)
        write_atomically(REPORT / "tables.png", inputs.figure.png)
        write_atomically(REPORT / "index.html", render_tables_page(inputs).encode())
        run.log_figure(REPORT / "tables.png")
        run.log_artifact(REPORT / "index.html")


if __name__ == "__main__":
    with exit_on_input_error():
        main()
