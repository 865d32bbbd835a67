"""Which videos a synthetic root holds: gestures, subjects, takes, split and lengths of its three sizes.

A gesture is a handshape and a motion, `<handshape>_<motion>`. The full set copies FPHA's counts and length statistics
(1,175 sequences, 600 / 575, 105,459 frames, 45 gestures, 6 subjects); the others are small.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from numpy.typing import NDArray

Size = Literal["test", "demo", "full"]

HANDSHAPES: Final = ("palm", "fist", "vee", "thumb", "point", "pinch", "ring", "horns", "grasp")
# form and release are one movement and its reverse; snap is form with another timing, shake is wave at another speed.
MOTIONS: Final = ("form", "release", "wave", "shake", "snap")
SCENARIOS: Final = 3

_SIZES: Final = {"test": (2, 2), "demo": (4, 3), "full": (9, 5)}  # handshapes, motions
_STREAMS: Final = {"test": 1, "demo": 2, "full": 3}

# FPHA's published counts, by split, by subject, and its shortest and longest sequence.
_FULL_VIDEOS: Final = {"train": 600, "test": 575}
_FULL_FRAMES: Final = {"train": 52_324, "test": 53_135}
_FULL_SUBJECTS: Final = (185, 183, 190, 203, 208, 206)
_FULL_PER_GESTURE: Final = (23, 33)
# Share of the sequences up to a length: 135 of 1,175 are shorter than 32, median 77, 95th percentile 204.
_FULL_SHARES: Final = (0.0, 134.5 / 1174, 0.5, 0.82, 0.95, 0.985, 0.9975, 1.0)
_FULL_LENGTHS: Final = (7.0, 31.5, 77.0, 122.0, 204.0, 310.0, 560.0, 1151.0)


@dataclass(frozen=True)
class VideoPlan:
    """One video before anything of it is computed."""

    key: str  # Subject_1/fist_form/2
    subject: int
    action: str
    gesture: int  # class id, 0-based
    split: Literal["train", "test"]
    scenario: int  # 0 to 2
    frames: int
    seed: int


def gestures(size: Size) -> tuple[str, ...]:
    """The action names of a size, by class id."""
    handshapes, motions = _SIZES[size]
    return tuple(f"{shape}_{motion}" for shape in HANDSHAPES[:handshapes] for motion in MOTIONS[:motions])


def plan(size: Size, seed: int) -> tuple[VideoPlan, ...]:
    """All videos of a size, gesture after gesture; the same for the same arguments.

    test: 4 gestures, 2 subjects, 4 + 2 videos a gesture, 5 to 9 frames. demo: 12 gestures, 4 subjects, 14 + 6 videos a
    gesture, 12 to 20 frames and some of 7 to 9. full: FPHA's counts. Every subject stands on both sides of the split.
    """
    rng = np.random.default_rng([seed, _STREAMS[size]])
    names = gestures(size)
    if size == "full":
        gesture, subject, train = _full_layout(rng)
        frames = _full_lengths(rng, train)
    else:
        gesture, subject, train = _small_layout(rng, len(names), *((2, 4, 2) if size == "test" else (4, 14, 6)))
        frames = _small_lengths(rng, size, len(gesture))
    seeds = np.random.SeedSequence([seed, _STREAMS[size], 1]).generate_state(len(gesture))
    scenarios = rng.integers(0, SCENARIOS, len(gesture))
    takes: dict[tuple[int, int], int] = {}
    videos = []
    for i in range(len(gesture)):
        s, g = int(subject[i]), int(gesture[i])
        take = takes[s, g] = takes.get((s, g), 0) + 1
        key = f"Subject_{s}/{names[g]}/{take}"
        split: Literal["train", "test"] = "train" if train[i] else "test"
        videos.append(VideoPlan(key, s, names[g], g, split, int(scenarios[i]), int(frames[i]), int(seeds[i])))
    return tuple(videos)


Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


def _small_layout(
    rng: np.random.Generator, gesture_count: int, subjects: int, train: int, test: int
) -> tuple[Ints, Ints, Bools]:
    """Gesture, subject and side of each video: per gesture and side the subjects take turns from a random start."""
    gesture, subject, is_train = [], [], []
    for g in range(gesture_count):
        for count, side in ((train, True), (test, False)):
            turns = np.resize(rng.permutation(subjects) + 1, count)
            gesture += [g] * count
            subject += turns.tolist()
            is_train += [side] * count
    return np.array(gesture), np.array(subject), np.array(is_train)


def _small_lengths(rng: np.random.Generator, size: Size, count: int) -> Ints:
    if size == "test":
        return rng.integers(5, 10, count)
    lengths = rng.integers(12, 21, count)
    lengths[rng.permutation(count)[: count // 40]] = rng.integers(7, 10, count // 40)
    return lengths


def _full_layout(rng: np.random.Generator) -> tuple[Ints, Ints, Bools]:
    """FPHA's margins: videos by subject, 23 to 33 a gesture, 600 / 575; subjects and gestures stand on both sides."""
    total, gesture_count = sum(_FULL_SUBJECTS), len(gestures("full"))
    least, most = _FULL_PER_GESTURE
    sizes = np.clip(np.round(rng.normal(total / gesture_count, 2.2, gesture_count)), least, most).astype(np.int64)
    while sizes.sum() != total:  # one video at a time, where there is room
        step = int(np.sign(total - sizes.sum()))
        room = np.flatnonzero((sizes + step >= least) & (sizes + step <= most))
        sizes[rng.choice(room)] += step
    gesture = np.repeat(np.arange(gesture_count), sizes)
    # Each subject's videos lie evenly spread along the list, so every gesture gets a fair mixture of subjects.
    place = np.concatenate([(np.arange(n) + rng.uniform(0.2, 0.8)) / n for n in _FULL_SUBJECTS])
    subject = np.repeat(np.arange(1, 7), _FULL_SUBJECTS)[np.argsort(place, kind="stable")]
    quotas = _shares(np.array(_FULL_SUBJECTS) * _FULL_VIDEOS["train"] / total, _FULL_VIDEOS["train"])
    train = np.zeros(total, dtype=bool)
    for s, (count, quota) in enumerate(zip(_FULL_SUBJECTS, quotas, strict=True), start=1):
        turns = np.floor((np.arange(count + 1) + rng.uniform()) * quota / count)
        chosen = np.diff(turns) > 0
        missing = int(quota - chosen.sum())
        if missing:
            chosen[np.flatnonzero(chosen == (missing < 0))[: abs(missing)]] ^= True
        train[subject == s] = chosen
    return gesture, subject, train


def _shares(ideal: NDArray[np.float64], total: int) -> Ints:
    """Whole numbers near `ideal` whose sum is `total`: the largest remainders are rounded up."""
    whole = np.floor(ideal).astype(np.int64)
    order = np.argsort(whole - ideal, kind="stable")
    whole[order[: total - whole.sum()]] += 1
    return whole


def _full_lengths(rng: np.random.Generator, train: Bools) -> Ints:
    """FPHA's distribution of lengths, dealt at random, then moved to the exact number of frames on each side.

    Only lengths between 34 and 200, other than those beside the median, are moved: the published quantiles stay.
    """
    count = len(train)
    shares = np.arange(count) / (count - 1)
    lengths = np.round(np.exp(np.interp(shares, _FULL_SHARES, np.log(_FULL_LENGTHS)))).astype(np.int64)
    lengths = lengths[rng.permutation(count)]
    ranges = ((34, 74), (80, 200))
    for side, total in ((train, _FULL_FRAMES["train"]), (~train, _FULL_FRAMES["test"])):
        residue = total - int(lengths[side].sum())
        while residue:
            step = int(np.sign(residue))
            new = lengths + step
            movable = side & np.logical_or.reduce(
                [(lengths >= a) & (lengths <= b) & (new >= a) & (new <= b) for a, b in ranges]
            )
            moved = rng.permutation(np.flatnonzero(movable))[: abs(residue)]
            lengths[moved] += step
            residue -= step * len(moved)
    return lengths
