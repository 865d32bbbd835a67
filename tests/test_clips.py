"""Clips out of prepared data: sampling, labels and masks, random changes."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gesturepose.data import clips
from gesturepose.data.augment import Augmentation, augment, warp_points, warp_video
from gesturepose.data.clips import evaluation_loader, training_frames, training_loader
from gesturepose.data.prepared import PreparedData
from gesturepose.errors import InputError
from gesturepose.geometry import Camera, image_to_crop
from gesturepose.params import AugmentSettings
from gesturepose.structures import ClipBatch

SIZE = 32
LENGTHS = (5, 13, 7, 29, 11, 3, 17)
CAMERA = Camera(fx=211.0, fy=217.0, cx=80.5, cy=44.5, width=161, height=91)
STILL = AugmentSettings(shift=0.0, scale=0.0, brightness=0.0, contrast=0.0, saturation=0.0, blur=0.0)
LIVELY = AugmentSettings(shift=0.06, scale=0.12, brightness=0.25, contrast=0.3, saturation=0.35, blur=0.5)
MOVED = STILL.model_copy(update={"shift": 0.1, "scale": 0.2})


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Prepared data written file by file: what the reader may rely on, apart from the stage that writes it."""
    folder = tmp_path_factory.mktemp("prepared")
    rng = np.random.default_rng(0)
    count = sum(LENGTHS)
    videos, start = [], 0
    for position, frames in enumerate(LENGTHS):
        split = "test" if position % 3 == 2 else "train"
        key = f"Subject_1/wave/{position + 1}"
        video = {"key": key, "subject": 1, "gesture": position % 2, "split": split, "start": start, "frames": frames}
        videos.append(video)
        start += frames
    joints_cam_mm = rng.normal((0, 0, 355), 40, (count, 21, 3))
    boxes = np.column_stack([rng.uniform(-9, 40, (count, 2)), rng.uniform(40, 90, count)])
    readable = np.ones(count, bool)
    readable[[2, 8]] = False  # frame 2 of video 0, frame 3 of video 1
    np.save(folder / "frames.npy", rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8))
    np.save(folder / "boxes.npy", boxes.astype(np.float32))
    np.save(folder / "readable.npy", readable)
    uv_px = rng.uniform(0, 90, (count, 21, 2))
    np.savez(folder / "poses.npz", joints_cam_mm=np.float32(joints_cam_mm), joints_uv_px=np.float32(uv_px))
    index = {"name": "tiny", "protocol": "official", "camera": {**CAMERA.__dict__}, "image_size": SIZE, "crop": "frame"}
    index |= {"gestures": ["wave", "point"], "fingerprint": "0", "videos": videos, "missing": [], "excluded": []}
    (folder / "index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def data(folder) -> PreparedData:
    return PreparedData.open(folder)


def same(one: ClipBatch, other: ClipBatch) -> bool:
    pairs = [(getattr(one, field.name), getattr(other, field.name)) for field in fields(ClipBatch)]
    return all(a.dtype == b.dtype and torch.equal(a.nan_to_num(7.5), b.nan_to_num(7.5)) for a, b in pairs)


def epoch(data, videos=None, *, seed=3, number=0, segments=8, clips_per_batch=2, **keywords) -> list[ClipBatch]:
    videos = data.videos if videos is None else videos
    keywords = {"segments": segments, "clips_per_batch": clips_per_batch, **keywords}
    return list(training_loader(data, videos, seed=seed, epoch=number, **keywords))


# Which frames


@pytest.mark.parametrize("segments", [3, 8, 11])
def test_one_training_frame_in_each_segment(segments):
    rng = np.random.default_rng(0)
    for length in range(1, 70):
        frames = training_frames(length, segments, rng)
        assert frames.shape == (segments,) and frames.dtype == np.int64
        assert frames.min() >= 0 and frames.max() < length
        assert (np.diff(frames) >= (1 if length >= segments else 0)).all()
        if length >= segments:
            edges = [position * length // segments for position in range(segments + 1)]
            assert all(low <= f < high for low, f, high in zip(edges[:-1], frames, edges[1:], strict=True))
        else:  # every frame, as evenly as can be
            repeats = np.bincount(frames, minlength=length)
            assert set(repeats) <= {segments // length, math.ceil(segments / length)}


def test_training_frames_reach_every_frame():
    rng = np.random.default_rng(0)
    assert {int(f) for _ in range(300) for f in training_frames(13, 4, rng)} == set(range(13))


@pytest.mark.parametrize("segments", [1, 3, 8])
def test_test_clips_hold_each_frame_once(segments):
    for length in range(1, 90):
        drawn = clips.test_clips(length, segments)
        assert len(drawn) == math.ceil(length / segments)
        assert sorted(f for frames, valid in drawn for f in frames[valid]) == list(range(length))
        for frames, valid in drawn:
            assert frames.shape == valid.shape == (segments,) and valid[0]
            assert (np.diff(frames[valid]) == len(drawn)).all()
            assert (frames[~valid] == length - 1).all() and not (np.diff(valid.astype(int)) > 0).any()


# Batches


def test_batch_gathers_frames_and_labels(data):
    for batch in epoch(data):
        assert batch.video.shape == (2, 8, 3, SIZE, SIZE) and batch.video.dtype == torch.uint8
        for b, position in enumerate(batch.video_index.tolist()):
            video = data.videos[position]
            assert batch.gesture[b] == video.gesture and batch.gesture_valid[b]
            for t, frame in enumerate(batch.frame_index[b].tolist()):
                row = video.start + frame
                np.testing.assert_array_equal(batch.video[b, t].permute(1, 2, 0).numpy(), data.frames[row])
                uv_crop_px = image_to_crop(data.joints_uv_px[row], data.boxes[row], SIZE)
                np.testing.assert_allclose(batch.joints_uv_crop_px[b, t].numpy(), uv_crop_px, atol=1e-4)
                depth_mm = data.joints_cam_mm[row, :, 2]
                np.testing.assert_allclose(batch.depth_rel[b, t].numpy(), (depth_mm - depth_mm[0]) / 100, atol=1e-5)
                assert batch.frame_valid[b, t] == data.readable[row]
                assert (batch.joint_valid[b, t] == bool(data.readable[row])).all()


def test_unreadable_frames_are_masked(data):
    batches = list(evaluation_loader(data, data.videos, segments=8, clips_per_batch=3))
    masked = set()
    for batch in batches:
        last = torch.tensor([data.videos[position].frames - 1 for position in batch.video_index])
        inner = ~batch.frame_valid & (batch.frame_index != last[:, None])
        masked |= {(int(batch.video_index[b]), int(batch.frame_index[b, t])) for b, t in inner.nonzero()}
        assert not batch.joint_valid[~batch.frame_valid].any()
    assert masked == {(0, 2), (1, 3)}


def test_evaluation_gives_each_frame_once(data):
    seen = []
    videos = data.split("test")
    loader = evaluation_loader(data, videos, segments=8, clips_per_batch=3)
    for batch in loader:
        where = batch.frame_valid.nonzero()
        seen += [(int(batch.video_index[b]), int(batch.frame_index[b, t])) for b, t in where]
    assert sorted(seen) == [(data.videos.index(video), frame) for video in videos for frame in range(video.frames)]
    assert len(loader) == len(list(loader))


def test_a_joint_behind_the_camera_is_masked(data):
    joints_cam_mm = data.joints_cam_mm.copy()
    joints_cam_mm[:, 4, 2] = -20.0
    (batch,) = epoch(replace(data, joints_cam_mm=joints_cam_mm), data.videos[2:3])
    assert not batch.joint_valid[..., 4].any() and batch.joint_valid[..., 5].all()


def test_batches_come_from_seed_epoch_and_video(data):
    assert all(same(a, b) for a, b in zip(epoch(data), epoch(data), strict=True))
    orders = [tuple(int(v) for batch in epoch(data, number=n) for v in batch.video_index) for n in range(4)]
    assert len(set(orders)) > 1
    assert not torch.equal(epoch(data, seed=4)[0].frame_index, epoch(data, seed=5)[0].frame_index)


def test_global_random_state_is_left_alone(data):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    epoch(data)
    assert torch.equal(torch.rand(1), expected)


def test_fewer_videos_give_the_same_clips_in_the_same_order(data):
    some = data.videos[::2]
    keys = {data.videos.index(video) for video in some}

    def clips_of(videos):
        batches = epoch(data, videos, clips_per_batch=1)
        return [(int(batch.video_index), tuple(batch.frame_index[0].tolist())) for batch in batches]

    assert clips_of(some) == [clip for clip in clips_of(data.videos) if clip[0] in keys]


def test_incomplete_batches(data):
    loader = training_loader(data, data.videos, segments=8, clips_per_batch=3, seed=0, epoch=0)
    assert [len(batch.gesture) for batch in loader] == [3, 3] and len(loader) == 2
    assert [len(batch.gesture) for batch in epoch(data, clips_per_batch=20)] == [len(LENGTHS)]
    left_out = {frozenset(range(7)) - {int(v) for b in epoch(data, number=n) for v in b.video_index} for n in range(9)}
    assert len(left_out) > 1


def test_withheld_labels_are_not_there(data):
    posed = frozenset(video.key for video in data.videos[::2])
    named = frozenset(video.key for video in data.videos[::3])
    plain = epoch(data)
    for full, batch in zip(plain, epoch(data, pose_labelled=posed, gesture_labelled=named), strict=True):
        for b, position in enumerate(batch.video_index.tolist()):
            if data.videos[position].key in posed:
                assert torch.equal(batch.joints_uv_crop_px[b], full.joints_uv_crop_px[b])
                assert torch.equal(batch.joint_valid[b], full.joint_valid[b])
            else:
                assert batch.joints_uv_crop_px[b].isnan().all() and batch.depth_rel[b].isnan().all()
                assert not batch.joint_valid[b].any()
            given = data.videos[position].key in named
            assert bool(batch.gesture_valid[b]) == given
            assert batch.gesture[b] == (full.gesture[b] if given else -1)
        assert torch.equal(batch.video, full.video) and torch.equal(batch.frame_valid, full.frame_valid)
    with pytest.raises(ValueError, match="Subject_9"):
        epoch(data, pose_labelled=frozenset({"Subject_9/wave/1"}))


# Reading the folder


@pytest.mark.parametrize("name", ["frames.npy", "boxes.npy", "readable.npy", "poses.npz", "index.json"])
def test_missing_and_broken_files_are_named(folder, tmp_path, name):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / name).write_bytes((folder / name).read_bytes()[:-9])
    with pytest.raises(InputError, match=name):
        PreparedData.open(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(InputError, match=f"{name}: no such file"):
        PreparedData.open(tmp_path)


def test_files_that_do_not_belong_together(folder, tmp_path):
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    np.save(tmp_path / "boxes.npy", np.zeros((4, 3), np.float32))
    with pytest.raises(InputError, match=r"boxes.npy: float32 \[4, 3\]; by index.json it is float32 \[85, 3\]"):
        PreparedData.open(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        PreparedData.open(tmp_path / "nowhere")


# Random changes


def batch_of(data, clips_per_batch=3) -> ClipBatch:
    return epoch(data, clips_per_batch=clips_per_batch, pose_labelled=frozenset({data.videos[1].key}))[0]


def test_all_settings_zero_change_nothing(data):
    batch = batch_of(data)
    changed = augment(batch, STILL, seed=1, epoch=2)
    torch.testing.assert_close(changed.video, batch.video.float(), rtol=0, atol=1e-3)
    torch.testing.assert_close(changed.joints_uv_crop_px, batch.joints_uv_crop_px, atol=1e-4, rtol=0, equal_nan=True)


def test_a_clip_comes_out_the_same_in_any_batch(data):
    whole = batch_of(data, clips_per_batch=5)
    changed = augment(whole, LIVELY, seed=1, epoch=2)
    for b in range(5):
        alone = ClipBatch(**{field.name: getattr(whole, field.name)[b : b + 1] for field in fields(ClipBatch)})
        one = augment(alone, LIVELY, seed=1, epoch=2)
        torch.testing.assert_close(one.video[0], changed.video[b], rtol=0, atol=1e-3)
        torch.testing.assert_close(one.joints_uv_crop_px[0], changed.joints_uv_crop_px[b], equal_nan=True)


def test_draws_change_with_epoch_seed_and_video():
    draws = [Augmentation.draw(LIVELY, [0, 1], seed=s, epoch=e) for s, e in ((0, 0), (0, 1), (1, 0))]
    scales = [float(value) for draw in draws for value in draw.scale]
    assert len(set(scales)) == 6
    many = Augmentation.draw(LIVELY, list(range(2000)), seed=0, epoch=0)
    half_widths = {"shift_u": 0.06, "shift_v": 0.06, "scale": 0.12, "brightness": 0.25, "contrast": 0.3}
    for name, half_width in {**half_widths, "saturation": 0.35}.items():
        away = (getattr(many, name) - (0 if name.startswith("shift") else 1)).abs()
        assert 0.99 * half_width < away.max() <= half_width * (1 + 1e-5), name
    assert 0.45 < (many.blur_sigma > 0).float().mean() < 0.55


def dots(uv_crop_px: torch.Tensor, size: int) -> torch.Tensor:
    """A soft dot at each point [B, T, 2], on mid-grey: float [B, T, 3, S, S]."""
    pixel = torch.arange(size, dtype=torch.float32)
    u, v = (uv_crop_px[..., axis, None] for axis in (0, 1))
    dot = torch.exp(-((pixel - v)[..., :, None] ** 2 + (pixel - u)[..., None, :] ** 2) / (2 * 2.0**2))
    return (128 + 120 * dot)[:, :, None].expand(-1, -1, 3, -1, -1)


def centroid(picture: torch.Tensor) -> torch.Tensor:
    """(u, v) [..., 2] of what stands out of mid-grey in [..., S, S]."""
    weight = (picture - 128).clamp(min=0)
    pixel = torch.arange(picture.shape[-1], dtype=torch.float32)
    total = weight.sum(dim=(-1, -2))
    return torch.stack([(weight.sum(-2) * pixel).sum(-1), (weight.sum(-1) * pixel).sum(-1)], -1) / total[..., None]


@pytest.mark.parametrize("settings", [MOVED, MOVED.model_copy(update={"blur": 1.0})], ids=["sharp", "blurred"])
def test_points_move_with_the_pixels(settings):
    size = 53
    points = torch.tensor([[[20.0, 31.0], [33.5, 22.25]], [[26.0, 26.0], [18.0, 34.0]]])
    drawn = Augmentation.draw(settings, [4, 9], seed=0, epoch=5)
    found = centroid(warp_video(dots(points, size), drawn)[:, :, 1])
    moved = warp_points(points[:, :, None], drawn, size)[:, :, 0]
    torch.testing.assert_close(found, moved, rtol=0, atol=0.05)
    assert (moved - points).abs().max() > 1


def test_warp_is_bilinear_sampling_and_grey_outside():
    size = 37
    video = torch.rand(2, 3, 3, size, size) * 255
    drawn = Augmentation.draw(MOVED, [1, 2], seed=0, epoch=0)
    matrix = torch.zeros(2, 2, 3)
    for axis, shift in ((0, drawn.shift_u), (1, drawn.shift_v)):
        matrix[:, axis, axis] = 1 / drawn.scale
        matrix[:, axis, 2] = -2 * shift / drawn.scale
    grid = torch.nn.functional.affine_grid(matrix.repeat_interleave(3, 0), (6, 3, size, size), align_corners=False)
    sampled = torch.nn.functional.grid_sample(video.flatten(0, 1) - 128, grid, align_corners=False) + 128
    torch.testing.assert_close(warp_video(video, drawn).flatten(0, 1), sampled, rtol=0, atol=0.02)


def test_colours_change_alike_in_all_frames(data):
    batch = batch_of(data)
    still = replace(batch, video=batch.video[:, :1].expand(-1, 8, -1, -1, -1))
    changed = augment(still, LIVELY, seed=1, epoch=2).video
    assert torch.equal(changed, changed[:, :1].expand_as(changed))
    assert changed.min() >= 0 and changed.max() <= 255
    assert (changed - still.video).abs().mean() > 2


def test_saturation_leaves_grey_alone(data):
    batch = batch_of(data)
    grey = batch.video[:, :, :1].expand(-1, -1, 3, -1, -1)
    saturated = augment(replace(batch, video=grey), STILL.model_copy(update={"saturation": 1.0}), seed=0, epoch=0)
    torch.testing.assert_close(saturated.video, grey.float(), rtol=0, atol=1e-3)


def test_contrast_spreads_about_the_mean_grey_of_the_valid_frames(data):
    batch = batch_of(data)
    valid = torch.ones(3, 8, dtype=torch.bool)
    valid[:, 5:] = False
    batch = replace(batch, video=batch.video // 4 + 96, frame_valid=valid)  # clamping has nothing to do
    batch.video[:, 5:] = 0
    settings = STILL.model_copy(update={"contrast": 0.5})
    factor = Augmentation.draw(settings, batch.video_index.tolist(), seed=0, epoch=0).contrast
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    before, after = (
        (video[:, :5] * weights).sum(2)
        for video in (batch.video.float(), augment(batch, settings, seed=0, epoch=0).video)
    )
    torch.testing.assert_close(after.mean((1, 2, 3)), before.mean((1, 2, 3)), rtol=0, atol=1e-2)
    torch.testing.assert_close(after.std((1, 2, 3)), before.std((1, 2, 3)) * factor, rtol=1e-3, atol=0)
