"""Which training videos may show their labels: nested, class-stratified, seeded subsets (Sec. 4.2, Fig. 4).

Ratios are of videos, not of frames: the frames of one video are near-duplicates. Subsets for poses and for gestures are
drawn independently of each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from gesturepose.data.prepared import PreparedData, Video
from gesturepose.errors import InputError

LabelKind = Literal["pose", "gesture"]
LABEL_KINDS: Final[tuple[LabelKind, ...]] = ("pose", "gesture")


def labelled_videos(videos: Sequence[Video], ratio: float, *, kind: LabelKind, seed: int) -> frozenset[str]:
    """Keys of the videos that keep their labels of `kind`: of each class the share `ratio`, at least one.

    Each class's videos stand in one random order for a seed and a kind, and a ratio takes the first of them, so that
    the subset of a smaller ratio is part of that of a larger one. The number of a class's videos is rounded half up.

    Raises:
        InputError: the ratio is not in (0, 1].
    """
    if not 0.0 < ratio <= 1.0:
        raise InputError(f"a label ratio of {ratio:g}", hint="Ratios are shares of the training videos, in (0, 1].")
    by_class: dict[int, list[str]] = defaultdict(list)
    for video in videos:
        by_class[video.gesture].append(video.key)
    chosen: list[str] = []
    for gesture, keys in by_class.items():
        random = np.random.default_rng((seed, LABEL_KINDS.index(kind), gesture))
        order = [sorted(keys)[place] for place in random.permutation(len(keys))]
        chosen += order[: max(1, int(np.floor(ratio * len(keys) + 0.5)))]
    return frozenset(chosen)


class LabelSubset(BaseModel):
    """Which training videos show which labels, as the file of one ratio and seed says."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: str  # fingerprint of the prepared data
    ratio: float
    seed: int
    pose: tuple[str, ...]  # keys of videos, sorted
    gesture: tuple[str, ...]

    @classmethod
    def draw(cls, data: PreparedData, ratio: float, seed: int) -> LabelSubset:
        """Both subsets of the training videos.

        Raises:
            InputError: the ratio is not in (0, 1], or a class has no training video to show a label of.
        """
        videos = data.split("train")
        empty = sorted(set(range(len(data.gestures))) - {video.gesture for video in videos})
        if empty:
            names = ", ".join(data.gestures[gesture] for gesture in empty[:5])
            raise InputError(
                f"{len(empty)} of {len(data.gestures)} classes have no training video, so no label to keep: {names}",
                file=data.folder,
                hint="See data.validation and data.protocol.",
            )
        pose, gesture = (tuple(sorted(labelled_videos(videos, ratio, kind=kind, seed=seed))) for kind in LABEL_KINDS)
        return cls(data=data.fingerprint, ratio=ratio, seed=seed, pose=pose, gesture=gesture)

    @classmethod
    def read(cls, folder: Path, data: PreparedData, *, ratio: float, seed: int) -> LabelSubset:
        """The subset of `data` for a ratio and a seed, from its file in `folder`.

        Raises:
            InputError: no such file, not a label subset, or one of other data, another ratio or seed.
        """
        path = folder / f"{ratio}-{seed}.json"
        hint = "The labels stage writes it."
        try:
            subset = cls.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise InputError("no such label subset", file=path, hint=hint) from None
        except ValidationError as error:
            raise InputError(f"not a label subset: {error.errors()[0]['msg']}", file=path, hint=hint) from None
        if subset.data != data.fingerprint:
            raise InputError(f"a label subset of other data than {data.folder}", file=path, hint=hint)
        if (subset.ratio, subset.seed) != (ratio, seed):
            raise InputError(f"a label subset of ratio {subset.ratio}, seed {subset.seed}", file=path, hint=hint)
        return subset

    def to_bytes(self) -> bytes:
        """The file's contents; equal subsets give equal bytes."""
        return (self.model_dump_json(indent=1) + "\n").encode()
