"""Draw which training videos keep their labels, for each ratio and seed."""

from __future__ import annotations

from pathlib import Path

from gesturepose.checkpoint import write_atomically
from gesturepose.data.labels import LabelSubset
from gesturepose.data.prepared import PreparedData
from gesturepose.errors import exit_on_input_error
from gesturepose.params import load_params
from gesturepose.tracking import stage_run

PREPARED = Path("data/prepared")
LABELS = Path("data/weak/labels")


def main() -> None:
    params = load_params()
    with stage_run("labels", params=params, sections=("weak",)) as run:
        data = PreparedData.open(PREPARED)
        run.log_dataset(data.name, data.fingerprint, PREPARED, context="training")
        counts = {}
        for ratio in params.weak.ratios:
            for seed in params.weak.seeds:
                subset = LabelSubset.draw(data, ratio, seed)
                write_atomically(LABELS / f"{ratio}-{seed}.json", subset.to_bytes())
                counts[f"labelled_videos.{ratio}"] = len(subset.pose)
        run.log_final_metrics(counts)


if __name__ == "__main__":
    with exit_on_input_error():
        main()
