"""Signals that end long work: as an exception that lets it close what it opened, and not while it is closing."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import psutil

from gesturepose.processes import ProcessIdentity

_STOPS = (signal.SIGTERM, signal.SIGHUP) if hasattr(signal, "SIGHUP") else (signal.SIGTERM,)


@contextmanager
def signals_as_exit() -> Iterator[list[str]]:
    """Turn the first SIGTERM or SIGHUP into SystemExit, so that `finally` blocks run; from then on they are ignored.

    They come in twos where a signal to a whole process group is passed on as well, by torchrun for one. Yields the list
    that will hold the signal's name.
    """
    received: list[str] = []
    owner = os.getpid()

    def leave(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked worker dies of it as if there were no handler
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        for other in replaced:
            signal.signal(other, signal.SIG_IGN)
        received.append(signal.Signals(number).name)
        raise SystemExit(128 + number)

    replaced = []
    if threading.current_thread() is threading.main_thread():
        # What was set on purpose (nohup's SIG_IGN) stays.
        replaced = [number for number in _STOPS if signal.getsignal(number) is signal.SIG_DFL]
    for number in replaced:
        signal.signal(number, leave)
    try:
        yield received
    finally:
        for number in replaced:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def undisturbed() -> Iterator[None]:
    """No signal but SIGKILL interrupts what is done here: a run that is being closed would stay open."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = (*_STOPS, signal.SIGINT)
    before = [signal.signal(number, signal.SIG_IGN) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def deferred() -> Iterator[None]:
    """Signals that come meanwhile take effect afterwards."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    numbers = (*_STOPS, signal.SIGINT)
    before = [signal.signal(number, lambda number, frame: came.append(number)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)


@contextmanager
def ending_with(other: psutil.Process | None) -> Iterator[None]:
    """Send this process SIGTERM soon after `other`, if there is one, has died."""
    if other is None:
        yield
        return
    owner, left = ProcessIdentity.of(other), threading.Event()

    def watch() -> None:
        while not left.wait(1.0):
            if owner.is_dead():
                os.kill(os.getpid(), signal.SIGTERM)
                return

    watcher = threading.Thread(target=watch, name="watcher of another process", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        left.set()
        watcher.join()


@contextmanager
def signals_noted() -> Iterator[list[signal.Signals]]:
    """The signals that have come, Ctrl-C included, instead of their effect."""
    received: list[signal.Signals] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(signal.Signals(number))

    # What is ignored on purpose (nohup's SIGHUP) stays so.
    before = {
        number: signal.getsignal(number)
        for number in (signal.SIGINT, *_STOPS)
        if signal.getsignal(number) is not signal.SIG_IGN
    }
    for number in before:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
