"""How long stages took before, from their finished runs."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gesturepose.tracking.store import STORE_ERRORS, open_store, store_error, tracking_uri


@dataclass(frozen=True)
class FinishedStage:
    """One finished run of a stage on this host."""

    address: str  # the stage's, as in `provenance.StageRecord`
    seconds: float
    params: Mapping[str, str]  # as MLflow keeps them: texts as they are, other values as JSON


def finished_stages() -> list[FinishedStage]:
    """The stages that this host finished in one attempt, newest first; none where there is no store yet.

    Raises:
        InputError: the store does not answer.
    """
    uri = tracking_uri()
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        return []
    store = open_store()
    filters = ("attributes.status = 'FINISHED'", "tags.`gesturepose.kind` = 'stage'")
    try:
        runs = store.search(" and ".join((*filters, f"tags.`gesturepose.host` = '{socket.gethostname()}'")))
    except STORE_ERRORS as error:
        raise store_error(uri, error) from error
    return [
        FinishedStage(
            run.data.tags["gesturepose.dvc.stage"], (run.info.end_time - run.info.start_time) / 1000, run.data.params
        )
        for run in runs
        # A resumed run's clock went on while nothing ran.
        if "gesturepose.attempts" not in run.data.tags and run.info.end_time is not None
    ]
