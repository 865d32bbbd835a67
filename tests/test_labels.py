"""Label subsets: nested, stratified, seeded; and the streams of clips that trainings with them see."""

import math
from itertools import pairwise

import pytest
import torch

from gesturepose.data.clips import Stream, step_loader
from gesturepose.data.labels import LABEL_KINDS, labelled_videos
from gesturepose.data.prepared import Video
from gesturepose.errors import InputError
from gesturepose.parallel import World
from gesturepose.params import check_ratios

SIZES = (13, 7, 1, 5)  # videos of each class
VIDEOS = [
    Video(f"Subject_1/class_{gesture}/{number}", 1, gesture, "train", 0, 9)
    for gesture, size in enumerate(SIZES)
    for number in range(size)
]
RATIOS = (0.02, 0.15, 0.25, 0.4, 0.5, 0.9, 1.0)


def test_a_smaller_subset_is_part_of_a_larger_one():
    for kind in LABEL_KINDS:
        subsets = [labelled_videos(VIDEOS, ratio, kind=kind, seed=3) for ratio in RATIOS]
        assert all(small <= large for small, large in pairwise(subsets))
        assert len(subsets[0]) < len(subsets[3]) < len(subsets[-1]) == len(VIDEOS)


def test_each_class_has_its_share_and_at_least_one():
    for ratio in RATIOS:
        chosen = labelled_videos(VIDEOS, ratio, kind="pose", seed=1)
        for gesture, size in enumerate(SIZES):
            found = sum(video.key in chosen for video in VIDEOS if video.gesture == gesture)
            assert found == max(1, math.floor(ratio * size + 0.5)), (ratio, gesture)


def test_by_hand():
    """13, 7, 1 and 5 videos at 25 %: 3.25, 1.75, 0.25 and 1.25 are 3, 2, 1 and 1."""
    assert len(labelled_videos(VIDEOS, 0.25, kind="gesture", seed=0)) == 3 + 2 + 1 + 1


def test_seeds_and_kinds_are_drawn_independently_and_order_does_not_matter():
    def drawn(videos=VIDEOS, kind="pose", seed=0):
        return labelled_videos(videos, 0.4, kind=kind, seed=seed)

    assert drawn() == drawn() == drawn(videos=VIDEOS[::-1])
    assert len({drawn(), drawn(seed=1), drawn(kind="gesture"), drawn(kind="gesture", seed=1)}) == 4


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.01, math.nan])
def test_a_ratio_outside_is_refused(ratio):
    with pytest.raises(InputError, match="a label ratio of"):
        labelled_videos(VIDEOS, ratio, kind="pose", seed=0)


@pytest.mark.parametrize(
    ("ratios", "message"),
    [((0.2, 0.1), "0.1 comes after 0.2"), ((0.1, 0.1), "0.1 is repeated"), ((0.1, 1.5), "1.5 is not a share"),
     ((0.0, 0.5), "0 is not a share")],
)  # fmt: skip
def test_ratios_of_a_curve_have_to_rise(ratios, message):
    with pytest.raises(ValueError, match=message):
        check_ratios(ratios)
    check_ratios((0.15, 0.25, 1.0))


def drawn(data, streams, **changes):
    settings = {"segments": 5, "first_step": 0, "steps": 7, "seed": 2} | changes
    return list(step_loader(data, streams, **settings))


def test_each_stream_goes_through_its_videos_again_and_again(prepared):
    videos = prepared.split("train")
    length = len(videos)
    batches = drawn(prepared, [Stream(videos, 4)], steps=length)  # four passes
    clips = torch.cat([batch.video_index for batch in batches]).tolist()
    passes = [clips[start : start + length] for start in range(0, 4 * length, length)]
    assert all(sorted(one) == sorted(passes[0]) and len(set(one)) == length for one in passes)
    assert len({tuple(one) for one in passes}) == 4, "each pass has an order of its own"


def test_labelled_clips_are_the_same_with_and_without_unlabelled_ones(prepared):
    labelled, rest = prepared.split("train")[::3], prepared.split("train")[1::3]
    alone = drawn(prepared, [Stream(labelled, 2)])
    beside = drawn(prepared, [Stream(labelled, 2), Stream(rest, 3)])
    for one, both in zip(alone, beside, strict=True):
        assert len(both.gesture) == 5
        assert torch.equal(one.video_index, both.video_index[:2])
        assert torch.equal(one.frame_index, both.frame_index[:2]) and torch.equal(one.video, both.video[:2])


def test_steps_can_be_taken_in_pieces(prepared):
    streams = [Stream(prepared.split("train")[::3], 2), Stream(prepared.split("train")[1::3], 3)]
    whole = drawn(prepared, streams, steps=11)
    pieces = drawn(prepared, streams, steps=4) + drawn(prepared, streams, first_step=4, steps=7)
    for one, other in zip(whole, pieces, strict=True):
        assert torch.equal(one.video_index, other.video_index) and torch.equal(one.frame_index, other.frame_index)


def test_withheld_labels_are_not_there(prepared):
    videos = prepared.split("train")
    batches = drawn(
        prepared, [Stream(videos, 4)], pose_labelled=frozenset({videos[0].key}), gesture_labelled=frozenset()
    )
    seen = 0
    for batch in batches:
        for clip, index in enumerate(batch.video_index.tolist()):
            shown = prepared.videos[index].key == videos[0].key
            seen += shown
            assert bool(batch.joint_valid[clip].any()) == shown
            assert bool(batch.depth_rel[clip].isnan().all()) != shown
    assert seen and not any(batch.gesture_valid.any() for batch in batches)
    assert all((batch.gesture == -1).all() for batch in batches)


def test_processes_share_each_streams_clips(prepared):
    streams = [Stream(prepared.split("train")[::3], 2), Stream(prepared.split("train")[1::3], 4)]
    whole = drawn(prepared, streams)
    parts = [drawn(prepared, streams, world=World(rank, 2)) for rank in range(2)]
    for batch, *shares in zip(whole, *parts, strict=True):
        assert [len(share.gesture) for share in shares] == [3, 3]
        together = torch.cat([share.video_index for share in shares])
        assert sorted(together.tolist()) == sorted(batch.video_index.tolist())
    with pytest.raises(InputError, match="cannot be divided evenly"):
        drawn(prepared, [Stream(prepared.split("train"), 3)], world=World(0, 2))


def test_a_stream_of_no_videos_is_refused(prepared):
    with pytest.raises(InputError, match="a stream of no videos has to give 2 clips"):
        drawn(prepared, [Stream((), 2)])
    assert len(drawn(prepared, [Stream(prepared.split("train"), 2), Stream((), 0)])) == 7
