"""Which training videos may show their labels: nested, class-stratified, seeded subsets (Sec. 4.2, Fig. 4).

Ratios are of videos, not of frames: the frames of one video are near-duplicates. Subsets for poses and for gestures are
drawn independently of each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise
from typing import Final, Literal

import numpy as np

from gesturepose.data.prepared import Video
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


def check_ratios(ratios: Sequence[float]) -> None:
    """Refuse ratios of a curve that are not in (0, 1], not in rising order, or repeated.

    Raises:
        ValueError: which one and why.
    """
    for ratio in ratios:
        if not 0.0 < ratio <= 1.0:
            raise ValueError(f"{ratio:g} is not a share of the training videos, in (0, 1]")
    for smaller, larger in pairwise(ratios):
        if larger <= smaller:
            problem = "is repeated" if larger == smaller else f"comes after {smaller:g}"
            raise ValueError(f"the ratio {larger:g} {problem}; they have to rise")
