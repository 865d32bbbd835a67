"""`python -m gesturepose.matrix.guard MARK`: ends what a runner started, should the runner die without doing so.

The runner holds the other end of standard input, which closes with it, SIGKILL included. Until everything with the
runner's mark is gone this process holds the runner's lock, which it has inherited: a rerun waits for that.
"""

from __future__ import annotations

import signal
import sys

from gesturepose.processes import end_marked


def main(mark: str) -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends when the runner has, and not before
    sys.stdin.buffer.read()
    end_marked(mark)


if __name__ == "__main__":
    main(sys.argv[1])
