"""The one exception that means "the user can mend this"."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class InputError(Exception):
    """Bad input: says which file and line, what was expected and what to do.

    Entry points (`gesturepose …` and the stage scripts) print its message without a traceback and exit with 2.
    """

    def __init__(
        self, message: str, *, file: str | Path | None = None, line: int | None = None, hint: str = ""
    ) -> None:
        place = "" if file is None else f"{file}:{line}: " if line is not None else f"{file}: "
        super().__init__(place + message + (f"\n  {hint}" if hint else ""))
        self.file = None if file is None else Path(file)
        self.line = line


@contextmanager
def exit_on_input_error() -> Iterator[None]:
    """At an entry point: an `InputError` becomes a message on standard error and exit code 2, Ctrl-C exit code 130."""
    try:
        yield
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from what is done", file=sys.stderr)
        raise SystemExit(130) from None
