"""Put the tables together, and test their rows against each other."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd

from gesturepose.ablation.tables import result_tables, row_tests
from gesturepose.checkpoint import write_atomically
from gesturepose.data.prepared import PreparedData
from gesturepose.errors import exit_on_input_error
from gesturepose.evaluation import rounded
from gesturepose.params import load_params
from gesturepose.tracking import stage_run

PREPARED = Path("data/prepared")
REPORT = Path("reports/ablation")


def main() -> None:
    params = load_params()
    with stage_run("collect", params=params, sections=("ablation",)) as run:
        data = PreparedData.open(PREPARED)
        per_video, means, cells = (pd.read_csv(REPORT / f"{name}.csv") for name in ("per_video", "seed_mean", "cells"))
        tables = result_tables(per_video, cells)
        values = {
            "data": {
                "name": data.name,
                "protocol": data.protocol,
                "split": params.ablation.split,
                "videos": len(data.split(params.ablation.split)),
                "fingerprint": data.fingerprint,
            },
            "seeds": len(params.ablation.seeds),
            **row_tests(per_video, means, params.ablation),
        }
        write_atomically(REPORT / "tables.csv", tables.to_csv(index=False, lineterminator="\n").encode())
        text = json.dumps(rounded(values), indent=2, allow_nan=False, ensure_ascii=False)
        write_atomically(REPORT / "metrics.json", (text + "\n").encode())
        run.log_final_metrics(values)
        run.log_artifact(REPORT / "tables.csv")


if __name__ == "__main__":
    with exit_on_input_error():
        main()
