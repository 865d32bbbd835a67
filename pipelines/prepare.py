"""Crop and pack the videos of data.root into data/prepared."""

from __future__ import annotations

from pathlib import Path

from gesturepose.data.fpha import open_root
from gesturepose.data.prepare import prepare
from gesturepose.data.prepared import PreparedData
from gesturepose.errors import exit_on_input_error
from gesturepose.params import load_params
from gesturepose.tracking import stage_run

PREPARED = Path("data/prepared")


def main() -> None:
    params = load_params()
    with stage_run("prepare", params=params, sections=("data", "prepare")) as run:
        settings = params.data
        root = open_root(
            settings.root,
            protocol=settings.protocol,
            held_out_subject=settings.held_out_subject,
            validation=settings.validation,
            split_seed=settings.split_seed,
            allow_missing=settings.allow_missing,
            exclude=settings.exclude,
        )
        print(root.summary())
        prepare(root, PREPARED, params.prepare, workers=params.runtime.workers)
        data = PreparedData.open(PREPARED)
        run.log_dataset(data.name, data.fingerprint, PREPARED, context="preparation")
        run.log_artifact(PREPARED / "report.json")


if __name__ == "__main__":
    with exit_on_input_error():
        main()
