"""Where studies are kept: a journal file of the project, or the database that OPTUNA_STORAGE names."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from gesturepose.errors import InputError
from gesturepose.tracking import FOLDER
from gesturepose.tracking.store import store_root

VARIABLE = "OPTUNA_STORAGE"
_JOURNAL = "studies.journal"
_REACH_S = 10
DATABASE_ERRORS = (SQLAlchemyError, StorageInternalError)
STORAGE_ERRORS = (*DATABASE_ERRORS, ImportError, OSError)  # on opening


class Journal(JournalFileBackend):
    """A journal that a writer's death cannot spoil: what it left of a line is cut off before the next line is written.

    Optuna's own would append to it, and could not read the two halves of lines ever after.
    """

    def __init__(self, file: Path) -> None:
        self._lock_file = JournalFileOpenLock(str(file))
        super().__init__(str(file), lock_obj=self._lock_file)
        self._file = file

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        self._lock_file.acquire()
        try:
            os.truncate(self._file, whole_length(self._file))
            with self._file.open("ab") as stream:
                stream.write(lines.encode())
                stream.flush()
                os.fsync(stream.fileno())
        finally:
            self._lock_file.release()


def whole_length(file: Path) -> int:
    """Bytes up to the end of the last whole line."""
    with file.open("rb") as stream:
        end = stream.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - 65536)
            stream.seek(start)
            newline = stream.read(end - start).rfind(b"\n")
            if newline >= 0:
                return start + newline + 1
            end = start
    return 0


def storage_name() -> str:
    """OPTUNA_STORAGE, or the path of the project's journal: what Optuna's own tools take as `--storage`."""
    return os.environ.get(VARIABLE) or str(store_root() / FOLDER / _JOURNAL)


def shown_name() -> str:
    """The same without a password, for messages."""
    name = storage_name()
    if "://" not in name:
        return name
    try:
        url = make_url(name)
    except ArgumentError:
        return f"{name.partition('://')[0]}://…"
    hidden = {key: "***" if "pass" in key.lower() else value for key, value in url.query.items()}
    return url.set(query=hidden).render_as_string(hide_password=True)


def open_storage() -> BaseStorage:
    """The project's studies; the first one to come creates the storage, while others on this host wait.

    Raises:
        InputError: the storage cannot be reached, or is none.
    """
    name = storage_name()
    if "://" not in name and not name.endswith(".journal") and not Path(name).exists():
        raise InputError(
            f"{VARIABLE} is {name}, which is no address and no journal",
            hint="Write an address such as postgresql://…, or the path of a file that ends in .journal.",
        )
    with host_lock():
        try:
            if "://" not in name:
                return JournalStorage(Journal(Path(name)))
            options: Mapping[str, Any] = {"pool_pre_ping": True}
            if name.startswith("postgresql"):
                options = {**options, "connect_args": {"connect_timeout": _REACH_S}}
            return optuna.storages.RDBStorage(name, engine_kwargs=dict(options))
        except (*STORAGE_ERRORS, ValueError) as error:
            raise storage_error(error) from error


def storage_error(error: Exception) -> InputError:
    """What a user can do about a storage that does not answer."""
    name, shown = storage_name(), shown_name()
    reason = str(error).strip().splitlines()[0][:300].replace(name, shown) if str(error).strip() else repr(error)
    hint = f"Check {VARIABLE}, or unset it to use the project's own file."
    if isinstance(error, ImportError):
        hint = "Install the driver of that database, for PostgreSQL with `pip install -e .[postgres]`."
    return InputError(f"the storage of studies {shown} does not work: {reason}", hint=hint)


@contextmanager
def storage_reported() -> Iterator[None]:
    """A storage that stops answering as what a user can do about it."""
    try:
        yield
    except DATABASE_ERRORS as error:
        raise storage_error(error) from error


@contextmanager
def host_lock() -> Iterator[None]:
    """What several processes of this host must not do at once: creating, taking a trial, requeueing one."""
    folder = store_root() / FOLDER
    folder.mkdir(exist_ok=True)
    with FileLock(folder / "studies.lock"):
        yield
