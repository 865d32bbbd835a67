"""`python -m gesturepose.search.worker STUDY TRIALS RUN`: trains trials of a study until it has all of them.

A search starts as many of these as it may, each with threads or a GPU of its own, and ends them; one whose search has
died ends itself.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import typer

from gesturepose.data.prepared import PreparedData
from gesturepose.errors import InputError, exit_on_input_error
from gesturepose.params import load_params
from gesturepose.processes import RUNNER_VARIABLE, Runner
from gesturepose.provenance import project_root
from gesturepose.search.storage import storage_reported
from gesturepose.search.study import FREE_RUNTIME, load_search, next_trial, unlike_facts
from gesturepose.search.trial import run_trial
from gesturepose.signals import deferred, ending_with, signals_as_exit

PREPARED = Path("data/prepared")


def main(study: str, trials: int, run: str) -> None:
    search = load_search(study, trials=trials)
    present = load_params().runtime
    runtime = search.params.runtime.model_copy(update={name: getattr(present, name) for name in FREE_RUNTIME})
    search = replace(search, params=search.params.model_copy(update={"runtime": runtime}))
    data = PreparedData.open(PREPARED)
    if unlike := unlike_facts(search, search.params, data, project_root()):
        raise InputError(
            f"the study {study} is of other {', '.join(unlike)} than this project has now",
            hint="`gesturepose search` begins one of the present.",
        )
    runner = Runner.from_mark(os.environ.get(RUNNER_VARIABLE, ""))
    if runner is None:
        raise InputError("the search that started this worker is gone")
    with storage_reported(), signals_as_exit(), ending_with(runner.process):
        fit_for_more = True
        while fit_for_more:
            with deferred():
                trial = next_trial(search)
            if trial is None:
                return
            fit_for_more = run_trial(search, trial, data, run)


if __name__ == "__main__":
    with exit_on_input_error():
        typer.run(main)
