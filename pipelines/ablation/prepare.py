"""Crop and pack the videos once more, with another choice of crop: `prepare.py frame`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import typer

from gesturepose.data.fpha import open_root
from gesturepose.data.prepare import prepare
from gesturepose.data.prepared import PreparedData
from gesturepose.errors import exit_on_input_error
from gesturepose.params import load_params
from gesturepose.tracking import stage_run

PREPARED = "data/ablation/prepared_{}"


def main(crop: Literal["frame"]) -> None:
    params = load_params()
    with stage_run("prepare", params=params, sections=("data", "prepare"), cell={"crop": crop}) as run:
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
        folder = Path(PREPARED.format(crop))
        prepare(root, folder, params.prepare.model_copy(update={"crop": crop}), workers=params.runtime.workers)
        data = PreparedData.open(folder)
        run.log_dataset(data.name, data.fingerprint, folder, context="preparation")


if __name__ == "__main__":
    with exit_on_input_error():
        typer.run(main)
