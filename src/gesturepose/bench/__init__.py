"""How fast the parts are on this machine: `python -m gesturepose.bench` → reports/bench/bench.md and bench.json.

Every figure with a baseline is measured alternately with it in one run, after a warm-up, so that whatever else the
machine does slows both. Cases stand in the modules by subject; `measure` has the arithmetic, `table` the files.
"""
