"""How fast the parts are on this machine, and what memory they take: `python -m gesturepose.bench` → reports/bench.

Every figure is measured alternately with its baseline in one run, after a warm-up, so that whatever else the machine
does slows both. `plain` is the network as one would write it first, with which the fast one is compared; cases stand in
the modules by subject, `measure` and `memory` have the arithmetic, `table` the files.
"""
