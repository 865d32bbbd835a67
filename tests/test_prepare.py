"""The prepare stage: boxes, crops, masks, and what it leaves behind."""

from __future__ import annotations

import hashlib
import json
import resource
import shutil
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import fpha_tree as tree
from gesturepose.data import crops
from gesturepose.data.augment import augment
from gesturepose.data.clips import evaluation_loader
from gesturepose.data.fpha import Root, open_root
from gesturepose.data.prepare import prepare
from gesturepose.data.prepared import PREPARED_FILES, PreparedData
from gesturepose.errors import InputError
from gesturepose.geometry import Camera, crop_to_image, image_to_crop
from gesturepose.params import AugmentSettings, PrepareSettings

SIZE = 32
CLIP = PrepareSettings(image_size=SIZE, crop="clip", box_margin=1.3, max_unreadable=0.1)
FRAME = CLIP.model_copy(update={"crop": "frame"})
CAMERA = Camera(fx=487.0, fy=491.0, cx=321.5, cy=177.25, width=643, height=359)
TINY = Camera(**{key: value for key, value in tree.CAMERA.items() if key != "name"})
MOVED = AugmentSettings(shift=0.08, scale=0.15, brightness=0.0, contrast=0.0, saturation=0.0, blur=0.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tree.write_root(tmp_path / "root", tree.videos(subjects=2))


def opened(folder: Path) -> Root:
    return open_root(folder, validation=0.3)


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])


# The whole stage


@pytest.mark.parametrize("settings", [CLIP, FRAME], ids=["clip", "frame"])
def test_everything_is_there(folder, tmp_path, settings):
    root = opened(folder)
    prepare(root, tmp_path / "out", settings, workers=2)
    assert sorted(contents(tmp_path / "out")) == sorted(PREPARED_FILES)
    data = PreparedData.open(tmp_path / "out")
    assert [video.key for video in data.videos] == [sequence.key for sequence in root.sequences]
    assert {video.split for video in data.videos} == {"train", "validation", "test"}
    assert data.readable.all() and data.camera == root.camera and data.gestures == root.gestures
    for video, sequence in zip(data.videos, root.sequences, strict=True):
        rows = slice(video.start, video.start + video.frames)
        joints_cam_mm = root.camera.world_to_cam(root.read_joints_world_mm(sequence))
        np.testing.assert_allclose(data.joints_cam_mm[rows], joints_cam_mm, rtol=1e-6)
        assert (video.gesture, video.subject, video.split) == (sequence.gesture, sequence.subject, sequence.split)
        boxes = data.boxes[rows]
        assert (len(np.unique(boxes, axis=0)) == 1) == (settings.crop == "clip")
        # A drift of a few px is far below the margin: every joint is in the crop, and the box is no larger than asked.
        uv_crop_px = image_to_crop(data.joints_uv_px[rows], boxes[:, None], SIZE)
        assert (uv_crop_px > -0.5).all() and (uv_crop_px < SIZE - 0.5).all()
        if settings.crop == "frame":
            extent = np.ptp(data.joints_uv_px[rows], axis=1).max(axis=1)
            np.testing.assert_allclose(boxes[:, 2], np.minimum(1.3 * extent, tree.WIDTH), rtol=1e-4)


def test_workers_runs_and_places_change_no_bit(folder, tmp_path):
    truncate(tree.frame_path(folder, "Subject_1/wave/2", 3))
    prepare(opened(folder), tmp_path / "one", CLIP, workers=1)
    shutil.move(folder, tmp_path / "elsewhere")
    prepare(opened(tmp_path / "elsewhere"), tmp_path / "three", CLIP, workers=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "three")
    everything = b"".join(path.read_bytes() for path in (tmp_path / "one").iterdir())
    assert str(tmp_path).encode() not in everything


def test_the_fingerprint_follows_every_content(folder, tmp_path):
    def fingerprint(settings: PrepareSettings = CLIP, **changes) -> str:
        prepare(replace(opened(folder), **changes), tmp_path / "out", settings, workers=1)
        return PreparedData.open(tmp_path / "out").fingerprint

    seen = [fingerprint(), fingerprint(FRAME), fingerprint(excluded=("Subject_1/wave/9",)), fingerprint(name="other")]
    path = tree.frame_path(folder, "Subject_1/wave/1", 0)
    cv2.imwrite(str(path), 255 - cv2.imread(str(path)))
    seen.append(fingerprint())
    assert len(set(seen)) == 5
    assert fingerprint() == seen[-1]


def test_unreadable_frames_are_masked_and_listed(folder, tmp_path):
    truncate(tree.frame_path(folder, "Subject_1/wave/2", 3))
    tree.frame_path(folder, "Subject_2/wave/1", 0).write_bytes(b"")
    tree.frame_path(folder, "Subject_2/wave/1", 1).write_text("not a picture")
    whole = tree.frame_path(folder, "Subject_2/wave/1", 2)
    whole.write_bytes(whole.read_bytes() + bytes(9))  # padding after the end is harmless
    prepare(opened(folder), tmp_path / "out", CLIP, workers=2)
    data = PreparedData.open(tmp_path / "out")
    starts = {video.key: video.start for video in data.videos}
    bad = [starts["Subject_1/wave/2"] + 3, starts["Subject_2/wave/1"], starts["Subject_2/wave/1"] + 1]
    assert sorted(bad) == np.flatnonzero(~data.readable).tolist()
    assert not data.frames[bad].any()
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    listed = {(entry["video"], entry["frame"]): entry["reason"] for entry in report["unreadable"]}
    assert set(listed) == {("Subject_1/wave/2", 3), ("Subject_2/wave/1", 0), ("Subject_2/wave/1", 1)}
    assert "truncated" in listed["Subject_1/wave/2", 3] and "empty" in listed["Subject_2/wave/1", 0]
    assert sum(split["unreadable_frames"] for split in report["splits"].values()) == 3
    assert sum(split["frames"] for split in report["splits"].values()) == len(data.readable)
    assert sum(split["videos"] for split in report["splits"].values()) == len(data.videos)


# Refusals


def test_too_many_unreadable_frames(folder, tmp_path):
    out = tmp_path / "out"
    prepare(opened(folder), out, CLIP, workers=1)
    before = contents(out)
    truncate(tree.frame_path(folder, "Subject_1/wave/2", 3))
    with pytest.raises(InputError, match=r"1 of \d+ frames cannot be read.*\n.*Subject_1/wave/2/color/color_0003.jpeg"):
        prepare(opened(folder), out, CLIP.model_copy(update={"max_unreadable": 0.001}), workers=2)
    assert contents(out) == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "root"]


def test_a_picture_of_another_size(folder, tmp_path):
    path = tree.frame_path(folder, "Subject_2/open_box/1", 2)
    tree.write_frame(path, width=tree.WIDTH + 1, height=tree.HEIGHT)
    with pytest.raises(InputError, match=r"color_0002.jpeg: the picture has 98x61 px; by the camera it is 97x61"):
        prepare(opened(folder), tmp_path / "out", CLIP, workers=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root"]


def test_a_folder_with_other_things_is_not_replaced(folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        prepare(opened(folder), tmp_path / "out", CLIP, workers=1)
    assert (tmp_path / "out" / "thesis.tex").exists()


def test_no_space_left(folder, tmp_path):
    root = opened(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # the kernel then refuses to write more to a file
    try:
        with pytest.raises(InputError, match=r"no space left: the prepared data takes 0\.\d MB"):
            prepare(root, tmp_path / "out", CLIP, workers=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root"]


def test_more_than_the_disk_holds_is_refused_before_the_work(folder, tmp_path):
    huge = CLIP.model_copy(update={"image_size": 2**22})
    with pytest.raises(InputError, match="no space left: the prepared data takes"):
        prepare(opened(folder), tmp_path / "out", huge, workers=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["root"]


# Boxes


def hand_px(frames: int = 60, at: tuple[float, float] = (300.0, 170.0), side: float = 100.0) -> np.ndarray:
    """[T, 21, 2] px: joints that fill a square of this side."""
    uv = np.random.default_rng(0).uniform(-0.5, 0.5, (frames, 21, 2))
    uv[:, 0], uv[:, 1] = (-0.5, -0.5), (0.5, 0.5)
    return uv * side + at


def usable(uv_px: np.ndarray, depth_mm: float = 355.0) -> np.ndarray:
    return crops.usable_joints(uv_px, np.full(uv_px.shape[:-1], depth_mm), CAMERA)


def test_one_stray_joint_or_frame_does_not_widen_a_box():
    uv_px = hand_px()
    expected = crops.clip_box(uv_px, usable(uv_px), CAMERA, 1.3)
    np.testing.assert_allclose(expected, [300 - 65, 170 - 65, 130])
    uv_px[7, 5] = (15_858.0, -900.0)  # projected from close to the camera
    uv_px[31] += (180.0, 0.0)  # a jump of the annotation
    np.testing.assert_allclose(crops.clip_box(uv_px, usable(uv_px), CAMERA, 1.3), expected)
    boxes = crops.frame_boxes(uv_px, usable(uv_px), CAMERA, 1.3)
    assert boxes[:, 2].max() <= 130 * (1 + 1e-9)
    np.testing.assert_allclose(boxes[31], [480 - 65, 170 - 65, 130])


def test_boxes_stay_in_their_limits():
    rng = np.random.default_rng(1)
    for _ in range(200):
        uv_px = rng.normal(rng.uniform(-300, 900, 2), rng.uniform(0, 400), (5, 21, 2))
        for box in (
            crops.clip_box(uv_px, usable(uv_px), CAMERA, 1.7)[None],
            crops.frame_boxes(uv_px, usable(uv_px), CAMERA, 1.7),
        ):
            centre = box[:, :2] + box[:, 2:] / 2
            assert (box[:, 2] >= 64.3 - 1e-9).all() and (box[:, 2] <= 643 + 1e-9).all()
            assert (centre >= -1e-9).all() and (centre <= np.array([642, 358]) + 1e-9).all()


def test_frames_without_a_hand_have_the_box_before():
    uv_px = hand_px(7)
    uv_px[[0, 1, 4, 5]] += 5000
    boxes = crops.frame_boxes(uv_px, usable(uv_px), CAMERA, 1.3)
    np.testing.assert_allclose(boxes[:2], [[321 - 321.5, 179 - 321.5, 643]] * 2)
    np.testing.assert_array_equal(boxes[4:6], boxes[[3, 3]])
    assert (boxes[[2, 3, 6], 2] < 200).all()
    nothing = np.zeros((7, 21), bool)
    np.testing.assert_allclose(crops.clip_box(uv_px, nothing, CAMERA, 1.3), boxes[0])
    assert not usable(hand_px(), depth_mm=-355.0).any()


def test_joints_far_outside_are_counted_and_kept(folder, tmp_path):
    video = tree.videos(subjects=2)[0]
    path = tree.skeleton_path(folder, video.key)
    joints_mm = tree.hand_mm(video.frames)
    joints_mm[2] += (3000.0, 0.0, 0.0)
    joints_mm[3, 7, 2] = -50.0
    path.write_text(tree.skeleton_text(joints_mm))
    prepare(opened(folder), tmp_path / "out", FRAME, workers=1)
    data = PreparedData.open(tmp_path / "out")
    assert np.isfinite(data.joints_uv_px).all() and np.isfinite(data.boxes).all()
    start = next(v.start for v in data.videos if v.key == video.key)
    np.testing.assert_array_equal(data.boxes[start + 2], data.boxes[start + 1])
    splits = json.loads((tmp_path / "out" / "report.json").read_text())["splits"].values()
    assert sum(split["frames_with_all_joints_outside_the_image"] for split in splits) == 1
    assert sum(split["frames_without_a_joint_for_the_box"] for split in splits) == 1
    assert sum(split["joints_behind_the_camera"] for split in splits) == 1


# Pixels


def centroid(picture: np.ndarray) -> np.ndarray:
    """(u, v) of what is brighter than mid-grey."""
    weight = np.maximum(picture.astype(float) - 140, 0)
    v, u = np.mgrid[: len(picture), : picture.shape[1]]
    return np.array([(weight * u).sum(), (weight * v).sum()]) / weight.sum()


def write_dot(path: Path, uv_px: np.ndarray, sigma_px: float) -> None:
    """A grey picture with one soft white dot."""
    v, u = np.mgrid[: CAMERA.height, : CAMERA.width]
    dot = np.exp(-((u - uv_px[0]) ** 2 + (v - uv_px[1]) ** 2) / (2 * sigma_px**2))
    picture = np.repeat((128 + 110 * dot)[..., None].round().astype(np.uint8), 3, axis=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), picture, [cv2.IMWRITE_JPEG_QUALITY, 98])


@pytest.mark.parametrize("side_px", [27.7, 61.3, 77.0, 130.9, 200.1, 301.7, 643.0])  # decoded at 1 to 1/8
def test_a_dot_lands_where_the_geometry_says(tmp_path, side_px):
    rng = np.random.default_rng(0)
    path = tmp_path / "dot.jpeg"
    for _ in range(4):
        uv_px = rng.uniform((80, 80), (560, 280))
        corner = uv_px - side_px * rng.uniform(0.35, 0.65, 2)
        box = np.array([*corner, side_px], dtype=np.float32)
        write_dot(path, uv_px, sigma_px=1.7 * max(side_px / SIZE, 1))
        crop = crops.read_crop(path, box, SIZE, CAMERA)
        assert crop.shape == (SIZE, SIZE, 3) and crop.dtype == np.uint8
        np.testing.assert_allclose(centroid(crop[..., 1]), image_to_crop(uv_px, box, SIZE), atol=0.06)


def test_a_joints_pixels_are_where_the_batch_says_also_after_augmentation(tmp_path):
    """From a skeleton file and JPEGs to batches: the middle MCP is marked in every picture, at three distances."""
    videos = [tree.Video(f"Subject_1/wave/{t}", 0, "test" if t == 3 else "train", 3 + t) for t in (1, 2, 3)]
    camera = {"name": "dots", **{k: getattr(CAMERA, k) for k in ("width", "height", "fx", "fy", "cx", "cy")}}
    folder = tree.write_root(tmp_path / "root", videos, frames=False, camera=camera)
    for take, video in enumerate(videos):
        joints_mm = tree.hand_mm(video.frames, seed=take) + np.array([0, 0, (-130, 0, 400)[take]])
        tree.skeleton_path(folder, video.key).write_text(tree.skeleton_text(joints_mm))
        for frame in range(video.frames):
            x, y, z = joints_mm[frame, 9]
            uv_px = np.array([CAMERA.fx * x / z + CAMERA.cx, CAMERA.fy * y / z + CAMERA.cy])
            write_dot(tree.frame_path(folder, video.key, frame), uv_px, sigma_px=4000 / z)
    prepare(open_root(folder, validation=0.0), tmp_path / "out", FRAME, workers=2)
    data = PreparedData.open(tmp_path / "out")
    assert np.ptp(np.log2(data.boxes[:, 2])) > 1.2  # so that decoding at several scales takes part
    for batch in evaluation_loader(data, data.videos, segments=5, clips_per_batch=2):
        moved = augment(batch, MOVED, seed=2, epoch=0)
        assert (moved.joints_uv_crop_px - batch.joints_uv_crop_px).abs().max() > 1
        for drawn in (batch, moved):
            for b, t in batch.frame_valid.nonzero().tolist():
                found = centroid(drawn.video[b, t, 1].numpy())
                np.testing.assert_allclose(found, drawn.joints_uv_crop_px[b, t, 9].numpy(), atol=0.12)


def test_shrinking_does_not_alias(tmp_path):
    """Stripes finer than the crop's pixels come out as their mean, whatever the scale."""
    path = tmp_path / "stripes.jpeg"
    stripes = np.where(np.add.outer(np.zeros(CAMERA.height, int), np.arange(CAMERA.width)) % 2, 60, 190)
    cv2.imwrite(str(path), np.repeat(stripes[..., None].astype(np.uint8), 3, axis=2), [cv2.IMWRITE_JPEG_QUALITY, 98])
    for side_px in (63.0, 117.3, 200.0, 340.7):
        box = np.array([120.3, 9.8, side_px], dtype=np.float32)
        crop = crops.read_crop(path, box, SIZE, CAMERA).astype(float)
        # Sampling single pixels would give anything between 60 and 190.
        assert np.abs(crop - 125).max() < 22, side_px


def test_colours_are_rgb_and_outside_is_grey(tmp_path):
    path = tmp_path / "red.jpeg"
    cv2.imwrite(str(path), np.full((CAMERA.height, CAMERA.width, 3), (10, 20, 230), dtype=np.uint8))
    box = np.array([-30.0, 20.0, 96.0], dtype=np.float32)
    crop = crops.read_crop(path, box, SIZE, CAMERA)
    edge = image_to_crop(np.array([-0.5, 0.0]), box, SIZE)[0]
    columns = np.arange(SIZE)
    np.testing.assert_allclose(crop[:, columns > edge + 1.5].reshape(-1, 3) - np.array([230.0, 20, 10]), 0, atol=3)
    assert (crop[:, columns < edge - 1.5] == 128).all()
    np.testing.assert_allclose(crop_to_image(image_to_crop(box[:2], box, SIZE), box, SIZE), box[:2], atol=1e-4)


def test_the_sensors_orientation_is_kept(tmp_path):
    """A tag that says how the camera was held does not turn the picture: the calibration is the sensor's."""
    path = tmp_path / "held.jpeg"
    write_dot(path, np.array([150.0, 120.0]), sigma_px=9.0)
    exif = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x03\0\0\0\0\0\0"  # rotated by half a turn
    content = path.read_bytes()
    path.write_bytes(content[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + content[2:])
    box = np.array([90.0, 60.0, 128.0], dtype=np.float32)
    crop = crops.read_crop(path, box, SIZE, CAMERA)
    np.testing.assert_allclose(centroid(crop[..., 1]), image_to_crop(np.array([150.0, 120.0]), box, SIZE), atol=0.1)


def test_prepared_pixels_are_those_of_read_crop(folder, tmp_path):
    root = opened(folder)
    prepare(root, tmp_path / "out", FRAME, workers=3)
    data = PreparedData.open(tmp_path / "out")
    for video, sequence in zip(data.videos, root.sequences, strict=True):
        for frame in range(video.frames):
            row = video.start + frame
            crop = crops.read_crop(root.frame_path(sequence, frame), data.boxes[row], SIZE, TINY)
            assert torch.equal(torch.from_numpy(crop), torch.from_numpy(data.frames[row].copy()))
