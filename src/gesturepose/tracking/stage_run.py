"""The run of one stage: opened before its work, closed with what became of it."""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from filelock import FileLock, Timeout
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, Run
from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor
from pydantic import BaseModel

from gesturepose.errors import InputError
from gesturepose.parallel import ALONE, World
from gesturepose.params import flatten
from gesturepose.processes import ProcessIdentity, enclosing_dvc_process
from gesturepose.provenance import (
    UNKNOWN,
    GitState,
    Pipeline,
    current_address,
    git_state,
    params_fingerprint,
    project_root,
    read_pipeline,
)
from gesturepose.signals import ending_with, signals_as_exit, undisturbed
from gesturepose.tracking.datasets import dataset_source
from gesturepose.tracking.executions import PARENT, join_execution, reap_dead_runs, settle_execution
from gesturepose.tracking.link import COMMIT, FINGERPRINT
from gesturepose.tracking.store import FOLDER, STORE_ERRORS, Store, open_store, store_error, store_root

_PARAMS_FINGERPRINT = "gesturepose.fingerprint.params"
_ERROR = "gesturepose.error"
_ATTEMPTS = "gesturepose.attempts"
_BATCH_METRICS, _BATCH_PARAMS = 1000, 100  # MLflow's limits on one request
_DIGEST_LENGTH = 36  # MLflow's limit
_SAMPLING_S = 5.0


class StageRun:
    """What a stage logs to. A metric that an earlier attempt of a resumed run logged for the same step is skipped."""

    def __init__(
        self, store: Store, run_id: str, parent_id: str, pipeline: Pipeline, fingerprint: str, resumed: bool
    ) -> None:
        self.run_id = run_id
        self.fingerprint = fingerprint  # of all that may change the stage's result; `unknown` outside a dvc.yaml
        self.resumed = resumed
        self._store = store
        self._parent_id = parent_id
        self._pipeline = pipeline
        self._process = os.getpid()
        self._logged = self._read_logged_steps() if resumed else set()
        self._monitor = SystemMetricsMonitor(
            run_id, sampling_interval=_SAMPLING_S, resume_logging=resumed, tracking_uri=store.uri
        )
        self._monitor.start()

    @property
    def checkpoint(self) -> Path | None:
        """Where the state of an unfinished training belongs: outside DVC's outs, under all that determines the result.

        None where that is unknown: a state must never be taken up by another computation.
        """
        if self.fingerprint == UNKNOWN:
            return None
        return store_root() / FOLDER / "checkpoints" / f"{self.fingerprint}.pt"

    def drop_checkpoint(self) -> None:
        """The stage is done; a forced rerun starts anew."""
        if self.checkpoint is not None:
            self.checkpoint.unlink(missing_ok=True)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log the values of one step in one batch."""
        now_ms = int(time.time() * 1000)
        fresh = [
            Metric(name, float(value), now_ms, step)
            for name, value in metrics.items()
            if (name, step) not in self._logged
        ]
        with _reported(self._store):
            for start in range(0, len(fresh), _BATCH_METRICS):
                self._store.client.log_batch(self.run_id, metrics=fresh[start : start + _BATCH_METRICS])
        self._logged.update((metric.key, step) for metric in fresh)

    def log_final_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Log the numbers of a nested dictionary under dotted names (list items by index), and its texts as tags."""
        leaves = dict(_leaves(metrics))
        numbers = {name: float(value) for name, value in leaves.items() if isinstance(value, (bool, int, float))}
        texts = {name: value for name, value in leaves.items() if isinstance(value, str)}
        self.log_metrics(numbers, step=0)
        with _reported(self._store):
            self._store.tag(self.run_id, texts)

    def log_figure(self, path: Path) -> None:
        """Keep a picture with the run."""
        self.log_artifact(path, folder="figures")

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a copy of a file with the run."""
        with _reported(self._store):
            self._store.client.log_artifact(self.run_id, str(path), folder)

    def log_folder(self, path: Path, folder: str | None = None) -> None:
        """Keep a copy of a folder's contents with the run."""
        with _reported(self._store):
            self._store.client.log_artifacts(self.run_id, str(path), folder)

    def log_dataset(self, name: str, digest: str, source_path: Path, context: str = "") -> None:
        """Note the data the stage reads: `digest` (its first 36 characters) is searchable, the source loadable.

        `context` says what for, such as `training`.
        """
        source = dataset_source(self._pipeline.root, source_path, self._pipeline.out_md5)
        dataset = Dataset(name, digest[:_DIGEST_LENGTH], source._get_source_type(), source.to_json())
        tags = [InputTag("mlflow.data.context", context)] if context else []
        with _reported(self._store):
            self._store.client.log_inputs(self.run_id, [DatasetInput(dataset, tags)])

    def _finish(self, status: str, error: str) -> None:
        if os.getpid() != self._process:  # a forked child leaves through the same frames
            return
        with undisturbed(), _reported(self._store):
            self._monitor.finish()
            # A stage that is shorter than the sampling interval has a sample too.
            self._monitor.collect_metrics()
            self._monitor.publish_metrics(self._monitor.aggregate_metrics())
            self._monitor.mlflow_logger.flush()
            if error:
                self._store.tag(self.run_id, {_ERROR: error[-4000:]})
            self._store.client.set_terminated(self.run_id, status)
            settle_execution(self._store, self._parent_id)

    def _read_logged_steps(self) -> set[tuple[str, int]]:
        client = self._store.client
        names = [name for name in client.get_run(self.run_id).data.metrics if not name.startswith("system/")]
        return {(name, metric.step) for name in names for metric in client.get_metric_history(self.run_id, name)}


class Bystander(StageRun):
    """The same for a process beside the leading one: it logs nothing, and knows where the checkpoint is."""

    def __init__(self, checkpoint: str | None) -> None:
        self.run_id, self.fingerprint, self.resumed = UNKNOWN, UNKNOWN, False
        self._checkpoint = None if checkpoint is None else Path(checkpoint)

    @property
    def checkpoint(self) -> Path | None:
        return self._checkpoint

    def drop_checkpoint(self) -> None:
        pass

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        pass

    def log_final_metrics(self, metrics: Mapping[str, Any]) -> None:
        pass

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        pass

    def log_folder(self, path: Path, folder: str | None = None) -> None:
        pass

    def log_dataset(self, name: str, digest: str, source_path: Path, context: str = "") -> None:
        pass


@contextmanager
def stage_run(
    stage: str,
    *,
    params: BaseModel,
    sections: Sequence[str],
    cell: Mapping[str, str | int | float] | None = None,
    resume: bool = False,
    world: World = ALONE,
) -> Iterator[StageRun]:
    """The MLflow run of a stage, a child of the pipeline execution's run.

    It ends as FINISHED; as FAILED, with the error, after an exception; as KILLED after SIGTERM, SIGHUP or Ctrl-C, or
    when the dvc that runs the stage is gone: the stage ends too, or a repeated `dvc repro` would write beside it.
    Settings of `sections` are its params.

    Args:
        stage: the name in dvc.yaml; DVC's own, fuller name is used where DVC runs the stage.
        cell: what the stage's arguments say, of a stage that dvc.yaml has in a matrix; params `cell.…`.
        resume: continue the newest killed or failed run of the same stage, settings, code and data, if there is one.
        world: the processes that do the stage together; the leading one alone has a run.

    Raises:
        InputError: not in a project, the stage already runs there, or the tracking store does not answer.
    """
    if not world.leads:
        opened, checkpoint = world.from_leader(None)
        if not opened:
            raise SystemExit(2)  # the leading process says why
        yield Bystander(checkpoint)
        return
    with signals_as_exit() as received, ending_with(enclosing_dvc_process()), _alone(stage, world):
        run: StageRun | None = None
        try:
            run = _open_run_with(world, stage, params, sections, cell or {}, resume)
            yield run
        except BaseException as error:
            if run is not None:
                _finish_after(error, run, received)
            raise
        run._finish("FINISHED", "")


def _open_run_with(
    world: World, stage: str, params: BaseModel, sections: Sequence[str], cell: Mapping[str, Any], resume: bool
) -> StageRun:
    """The run, after the other processes know whether there is one, and its checkpoint."""
    try:
        run = _open_run(stage, params, sections, cell, resume)
    except BaseException:
        world.from_leader((False, None))
        raise
    world.from_leader((True, None if run.checkpoint is None else str(run.checkpoint)))
    return run


@contextmanager
def _alone(stage: str, world: World) -> Iterator[None]:
    """Two processes must not write the outs of one stage: the second is refused."""
    root = project_root()
    name = hashlib.sha256(current_address(stage, root).encode()).hexdigest()[:16]
    lock = FileLock(root / FOLDER / "locks" / f"{name}.lock", timeout=0)
    lock_file = Path(lock.lock_file)
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock.acquire()
    except Timeout:
        world.from_leader((False, None))
        raise InputError(
            f"the stage {stage} already runs in {root}", file=lock_file, hint="Wait for it, or end its process."
        ) from None
    try:
        yield
    finally:
        lock.release()


def _open_run(
    stage: str, params: BaseModel, sections: Sequence[str], cell: Mapping[str, Any], resume: bool
) -> StageRun:
    root = project_root()
    pipeline = read_pipeline(root)
    git = git_state(root, pipeline)
    store = open_store()
    reap_dead_runs(store)
    tags = _tags(stage, params, sections, pipeline, git)
    git_tags = {name: value for name, value in tags.items() if ".git" in name}
    with _reported(store):
        with store.lock:
            parent_id = join_execution(store, git_tags)
            tags |= {PARENT: parent_id, **ProcessIdentity.of(psutil.Process()).tags()}
            earlier = _unfinished_run(store, tags) if resume else None
            if earlier is None:
                run_id = store.client.create_run(store.experiment_id, tags=tags, run_name=stage).info.run_id
            else:
                run_id = earlier.info.run_id
                store.client.update_run(run_id, status="RUNNING")
                tags[_ATTEMPTS] = str(int(earlier.data.tags.get(_ATTEMPTS, "1")) + 1)
                store.tag(run_id, tags)
                if _ERROR in earlier.data.tags:
                    store.client.delete_tag(run_id, _ERROR)
        if earlier is None:
            values = params.model_dump(mode="json")
            leaves = list(
                flatten({section: values[section] for section in sections} | ({"cell": cell} if cell else {}))
            )
            entries = [Param(name, value if isinstance(value, str) else json.dumps(value)) for name, value in leaves]
            for start in range(0, len(entries), _BATCH_PARAMS):
                store.client.log_batch(run_id, params=entries[start : start + _BATCH_PARAMS])
        if git.patch:
            store.client.log_text(run_id, git.patch, "git/uncommitted.patch")
        return StageRun(store, run_id, parent_id, pipeline, tags[FINGERPRINT], resumed=earlier is not None)


def _tags(stage: str, params: BaseModel, sections: Sequence[str], pipeline: Pipeline, git: GitState) -> dict[str, str]:
    address = current_address(stage, pipeline.root)
    tags = {
        "mlflow.source.name": sys.argv[0],
        "mlflow.source.type": "LOCAL",
        COMMIT: git.commit,
        "gesturepose.git.branch": git.branch,
        "gesturepose.git.dirty": str(git.dirty).lower(),
        "gesturepose.kind": "stage",
        "gesturepose.stage": stage,
        "gesturepose.dvc.stage": address,
        FINGERPRINT: pipeline.fingerprint(address),
        _PARAMS_FINGERPRINT: params_fingerprint(params, sections),
        "gesturepose.fingerprint.code": pipeline.code_fingerprint(address),
        "gesturepose.fingerprint.data": pipeline.data_fingerprint(address),
    }
    if git.commit != UNKNOWN:
        tags |= {"mlflow.source.git.commit": git.commit, "mlflow.source.git.branch": git.branch}
    experiment = {"DVC_EXP_NAME": "gesturepose.dvc.exp", "DVC_EXP_BASELINE_REV": "gesturepose.dvc.baseline"}
    return tags | {tag: os.environ[name] for name, tag in experiment.items() if os.environ.get(name)}


def _unfinished_run(store: Store, tags: Mapping[str, str]) -> Run | None:
    """The newest run to continue: the same computation, and ended before its end."""
    if tags[FINGERPRINT] == UNKNOWN:
        return None
    same = " and ".join(f"tags.`{name}` = '{tags[name]}'" for name in (FINGERPRINT, _PARAMS_FINGERPRINT))
    runs = store.search(f"{same} and tags.`gesturepose.stage` = '{tags['gesturepose.stage']}'")
    return next((run for run in runs if run.info.status in ("KILLED", "FAILED")), None)


def _finish_after(error: BaseException, run: StageRun, received: Sequence[str]) -> None:
    """Close the run of a stage that did not reach its end; its error matters more than the store's."""
    if received or isinstance(error, KeyboardInterrupt):
        status, text = "KILLED", received[0] if received else "SIGINT"
    elif isinstance(error, SystemExit) and error.code in (None, 0):
        status, text = "FINISHED", ""
    elif isinstance(error, InputError):
        status, text = "FAILED", str(error)
    else:
        status, text = "FAILED", "".join(traceback.format_exception(error))
    try:
        run._finish(status, text)
    except InputError as store_failure:
        print(f"The run {run.run_id} could not be closed: {store_failure}", file=sys.stderr)


@contextmanager
def _reported(store: Store) -> Iterator[None]:
    try:
        yield
    except STORE_ERRORS as error:
        raise store_error(store.uri, error) from error


def _leaves(tree: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(tree, Mapping):
        items: Any = tree.items()
    elif isinstance(tree, (list, tuple)):
        items = enumerate(tree)
    else:
        if tree is not None and not (isinstance(tree, float) and math.isnan(tree)):
            yield name, tree
        return
    for key, value in items:
        yield from _leaves(value, f"{name}.{key}" if name else str(key))
