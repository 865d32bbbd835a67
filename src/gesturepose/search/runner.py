"""A search: starts workers, keeps account of their trials, and ends with every one of them accounted for."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from subprocess import Popen
from typing import Any

from optuna.trial import TrialState
from tqdm import tqdm

from gesturepose.data.prepared import PreparedData
from gesturepose.errors import InputError
from gesturepose.params import Params
from gesturepose.places import job_places
from gesturepose.processes import RUNNER_VARIABLE, end_marked, runner_mark
from gesturepose.provenance import project_root
from gesturepose.search.report import best_values, best_words, write_report
from gesturepose.search.storage import host_lock, shown_name, storage_reported
from gesturepose.search.study import (
    ERROR,
    REQUEUED,
    Search,
    complete_trials,
    ended_trials,
    open_study,
    progress,
    requeue_dead,
)
from gesturepose.search.worker import PREPARED
from gesturepose.signals import signals_noted, undisturbed
from gesturepose.tracking import FOLDER
from gesturepose.tracking.store import store_root
from gesturepose.tracking.studies import close_study_run, log_study_files, open_study_run, settle_trials

_POLL_S = 1.0
_HOPELESS = 3  # trials that fail, or workers that die, in a row


@dataclass
class _Worker:
    process: Popen[bytes]
    place: int
    log: Path


@storage_reported()
def run_search(params: Params, *, workers: int | None, report: Path | None = None, order: str = "") -> int:
    """Train trials until the study of these settings, this data and code has `search.trials`; then write its page.

    Args:
        workers: at once; None one a GPU, or as many as the cores bear.
        report: a folder for the page; None one below .gesturepose/studies.
        order: see `open_study`.

    Returns:
        The exit code: 0; 1 where trials are missing; 128 and the signal's number after Ctrl-C, SIGTERM or SIGHUP.

    Raises:
        InputError: no prepared data, no storage, or no trial can be trained.
    """
    root = project_root()
    os.chdir(root)  # workers read its data
    data = PreparedData.open(PREPARED)
    search = open_study(params, data, root, order=order)
    places = job_places(params.runtime, params.search.threads, workers)
    parent = open_study_run(
        search.name,
        {"search": params.search.model_dump(mode="json")},
        {"gesturepose.storage": shown_name(), "gesturepose.data": data.fingerprint},
    )
    print(f"study {search.name} in {shown_name()}\nMLflow run {parent}", flush=True)
    code, status = 1, "FAILED"
    try:
        code = _work(search, places, root, parent)
        status = {0: "FINISHED", 1: "RUNNING"}.get(code, "KILLED")  # 1: another search trains the last ones
    finally:
        values: dict[str, float] = {}
        with undisturbed():
            try:
                settle_trials(parent, search.name, ended_trials(search))
                values = best_values(search)
            finally:
                close_study_run(parent, status, values)
    if code != 1 and complete_trials(search):  # with 1, the search that trains the last ones writes it
        folder = report or store_root() / FOLDER / "studies" / search.name
        log_study_files(parent, write_report(search, data, folder))
        print(f"{best_words(search)}\n{folder / 'index.html'}")
    now = progress(search)
    whole, pruned, waiting = (now.states.get(state, 0) for state in ("COMPLETE", "PRUNED", "WAITING"))
    cut = now.states.get("FAIL", 0) - now.failed
    print(
        f"{now.done} of {search.total} trials: {whole} complete, {pruned} pruned, {now.failed} failed"
        + (f"; {cut} were cut off" if cut else "")
        + (f"; {waiting} wait to be tried" if waiting else "")
    )
    if code == 1:
        print("other searches train the last ones; the same command says how they ended")
    elif code:
        print("the same command goes on from here; a trial that was cut off, from its last epoch")
    best = "best-trials" if len(search.study.directions) > 1 else "best-trial"
    print(f"`optuna {best} --study-name {search.name} --storage {shown_name()}`")
    if complete_trials(search):
        print(f"`gesturepose promote {search.name}` writes the best one's settings into params.yaml", flush=True)
    return code


def _work(search: Search, places: Sequence[str | None], root: Path, parent: str) -> int:
    mark = runner_mark(f"search {search.name}")
    live: list[_Worker] = []
    first = progress(search)
    begun, barren, at_death = 0, 0, first.done  # workers so far; those in a row that died while nothing was done
    with signals_noted() as received, _bar(search) as bar:
        try:
            while not received:
                ended = [worker for worker in live if worker.process.poll() is not None]
                with host_lock():
                    requeue_dead(search)
                now = progress(search)
                _show(bar, search, now.done)
                for worker in ended:
                    live.remove(worker)
                    code = worker.process.returncode
                    died = code < 0 or code > 128  # by a signal
                    if died:
                        barren, at_death = (barren + 1 if now.done == at_death else 1), now.done
                    if (code and not died) or barren >= _HOPELESS:
                        raise InputError(f"a worker failed; the end of {worker.log}:\n{_tail(worker.log)}")
                if hopeless := _last_failures(search, first.done):
                    raise InputError(f"{_HOPELESS} trials in a row failed; the last one said:\n{hopeless[-1]}")
                own = {worker.process.pid for worker in live}
                elsewhere = sum(pid not in own for pid in now.running)
                wanted = min(len(places), search.total - now.done - elsewhere)
                if wanted <= 0 and not live:
                    return 0 if now.done >= search.total else 1  # the others run elsewhere
                while len(live) < wanted:
                    place = min(set(range(len(places))) - {worker.place for worker in live})
                    live.append(_start(search, begun, place, places[place], root, parent, mark))
                    begun += 1
                time.sleep(_POLL_S)
            bar.write(f"{received[0].name}: {len(live)} running trials are told to end")
        finally:
            end_marked(mark)
            for worker in live:
                worker.process.wait()
            with host_lock():
                requeue_dead(search)
    return 128 + received[0]


def _start(search: Search, number: int, place: int, gpu: str | None, root: Path, parent: str, mark: str) -> _Worker:
    environment = os.environ | {RUNNER_VARIABLE: mark}
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    log = root / FOLDER / "logs" / "search" / f"{search.name}-{os.getpid()}-{number}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "gesturepose.search.worker", search.name, str(search.total), parent],
            cwd=root,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a terminal's Ctrl-C is the search's alone
        )
    return _Worker(process, place, log)


def _bar(search: Search) -> tqdm[Any]:
    """With the best value, and the time that is left, on a terminal."""
    done = progress(search).done
    return tqdm(total=search.total, initial=min(done, search.total), desc="trials", unit="trial", disable=None)


def _show(bar: tqdm[Any], search: Search, done: int) -> None:
    if done > bar.n:
        bar.update(done - bar.n)
        bar.set_postfix_str(best_words(search))


def _last_failures(search: Search, before: int) -> list[str]:
    """The errors of the last trials that have ended since the study had `before`, if so many failed in a row."""
    trials = search.study.get_trials(deepcopy=False)
    ended = [trial for trial in trials if trial.state.is_finished() and not trial.user_attrs.get(REQUEUED)]
    ended.sort(key=lambda trial: trial.datetime_complete or datetime.min)
    last = ended[before:][-_HOPELESS:]
    failed = len(last) == _HOPELESS and all(trial.state is TrialState.FAIL for trial in last)
    return [str(trial.user_attrs.get(ERROR, "")) for trial in last] if failed else []


def _tail(log: Path, lines: int = 25) -> str:
    return "\n".join(f"  {line}" for line in log.read_text(errors="replace").splitlines()[-lines:])
