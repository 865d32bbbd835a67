"""Run a study of `search.trials` trials, one after the other and each to its end; write its page to reports/search."""

from __future__ import annotations

from pathlib import Path

from gesturepose.errors import exit_on_input_error
from gesturepose.params import load_params, with_values
from gesturepose.search.runner import run_search
from gesturepose.tracking import stage_run

REPORT = Path("reports/search")


def main() -> None:
    # To their end, so that the page can say what pruning would have saved.
    params = with_values(load_params(), {"search.pruner": "none"})
    with stage_run("search", params=params, sections=("search",)) as run:
        # A study of its own: what is tried depends on the settings alone.
        code = run_search(params, workers=1, report=REPORT, order="one after the other")
        if code:
            raise SystemExit(code)
        run.log_folder(REPORT)


if __name__ == "__main__":
    with exit_on_input_error():
        main()
