"""Where runs are kept: one experiment in an MLflow store that belongs to the project."""

from __future__ import annotations

import logging
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run, RunTag
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from gesturepose.errors import InputError
from gesturepose.provenance import project_root

EXPERIMENT = "gesturepose"
FOLDER = ".gesturepose"
STORE_ERRORS = (MlflowException, SQLAlchemyError, sqlite3.Error, OSError)  # OSError: requests, locks, a full disk
_LOCK_TIMEOUT_S = 300.0


def store_root() -> Path:
    """The main workspace: a queued experiment runs in a copy below .dvc/tmp, while DVC_ROOT names the project."""
    root = os.environ.get("DVC_ROOT")
    return Path(root).resolve() if root else project_root()


def tracking_uri() -> str:
    """MLFLOW_TRACKING_URI, or the project's own sqlite file; a relative sqlite path counts from the project."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or _own_uri()
    if uri.startswith("sqlite:///") and not uri.startswith("sqlite:////"):
        return f"sqlite:///{(store_root() / uri.removeprefix('sqlite:///')).resolve()}"
    return uri


def shown_uri(uri: str) -> str:
    """The URI without a password, for messages."""
    parts = urlsplit(uri)
    return uri if parts.password is None else uri.replace(f":{parts.password}@", ":***@", 1)


def _own_uri() -> str:
    return f"sqlite:///{store_root() / FOLDER / 'mlflow.db'}"


class StoreError(InputError):
    """The tracking store does not answer."""


@dataclass(frozen=True)
class Store:
    """The opened experiment. `lock` orders what several processes of this host must not do at once."""

    client: MlflowClient
    experiment_id: str
    uri: str
    lock: FileLock

    def search(self, filter_string: str) -> list[Run]:
        """All matching runs that are not deleted, newest first."""
        found: list[Run] = []
        token: str | None = None
        while True:
            page = self.client.search_runs(
                [self.experiment_id],
                filter_string,
                max_results=1000,
                order_by=["attributes.start_time DESC"],
                page_token=token,
            )
            found.extend(page)
            token = page.token
            if not token:
                return found

    def tag(self, run_id: str, tags: Mapping[str, str]) -> None:
        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])


def open_store() -> Store:
    """Open the project's experiment; the first one to come creates it, while others wait.

    Raises:
        InputError: the store cannot be reached or is no MLflow store.
    """
    # The store's own creation is not news to someone who trains a network.
    for name in ("mlflow.store.db.utils", "mlflow.system_metrics", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    folder = store_root() / FOLDER
    uri = tracking_uri()
    lock = FileLock(folder / "mlflow.lock", timeout=_LOCK_TIMEOUT_S)
    try:
        folder.mkdir(exist_ok=True)
        # Eight processes that create one sqlite database at once break each other's migration.
        with lock, _one_quick_try():
            if uri == _own_uri():
                _create_whole(folder / "mlflow.db")
            if uri.startswith("sqlite:///"):
                _switch_to_wal(Path(uri.removeprefix("sqlite:///").partition("?")[0]))
            client = MlflowClient(tracking_uri=uri)
            experiment = client.get_experiment_by_name(EXPERIMENT)
            # A server decides itself where artifacts go.
            location = None if uri.startswith(("http", "databricks")) else (folder / "mlartifacts").as_uri()
            experiment_id = _ensure_experiment(client, experiment, location)
            if experiment and uri == _own_uri() and experiment.artifact_location != location:
                _move_artifacts(Path(uri.removeprefix("sqlite:///")), experiment.artifact_location, str(location))
    except Timeout:
        raise StoreError(
            f"another process has held the lock of the tracking store for {_LOCK_TIMEOUT_S:.0f} s",
            file=folder / "mlflow.lock",
            hint="Look for a stage that hangs (`ps`), and end it.",
        ) from None
    except STORE_ERRORS as error:
        raise store_error(uri, error) from error
    return Store(client, experiment_id, uri, lock)


def store_error(uri: str, error: Exception) -> StoreError:
    """What a user can do about a store that does not answer."""
    if uri.startswith("http"):
        hint = "Start that server, or unset MLFLOW_TRACKING_URI to use the project's own store."
    else:
        hint = "Check MLFLOW_TRACKING_URI, the folder's permissions and the space on the disk."
    reason = str(error).splitlines()[0]
    if password := urlsplit(uri).password:
        reason = reason.replace(f":{password}@", ":***@")  # MLflow and requests quote the address
    return StoreError(f"the MLflow tracking store {shown_uri(uri)} does not work: {reason[:300]}", hint=hint)


def _ensure_experiment(client: MlflowClient, experiment: Experiment | None, location: str | None) -> str:
    if experiment is None:
        return client.create_experiment(EXPERIMENT, artifact_location=location)
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return experiment.experiment_id


def _move_artifacts(database: Path, old: str, new: str) -> None:
    """Follow a project folder that was moved or copied: MLflow keeps absolute artifact paths."""
    connection = sqlite3.connect(database, timeout=60.0)
    try:
        with connection:
            for table, column in (("experiments", "artifact_location"), ("runs", "artifact_uri")):
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE {column} = ? OR {column} LIKE ?",
                    (new, len(old) + 1, old, f"{old}/%"),
                )
    finally:
        connection.close()


def _create_whole(database: Path) -> None:
    """MLflow's tables, if they are not there: a creation that is cut off leaves a file that no later one can mend."""
    if database.exists():
        return
    unfinished = database.with_name(f"{database.name}.new")
    unfinished.unlink(missing_ok=True)
    MlflowClient(tracking_uri=f"sqlite:///{unfinished}").get_experiment_by_name(EXPERIMENT)
    unfinished.replace(database)


def _switch_to_wal(database: Path) -> None:
    """Write-ahead logging, which the file remembers: readers and a writer no longer wait for each other."""
    database.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(database, timeout=60.0)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
    finally:
        connection.close()


@contextmanager
def _one_quick_try() -> Iterator[None]:
    """MLflow repeats a request for minutes; whether a server is there at all shows at once."""
    quick = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    added = {name: value for name, value in quick.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
