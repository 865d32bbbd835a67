"""The reference systems: shapes, masks, gradients, that clips stand alone, and that each learns a batch by heart."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from gesturepose.backbone import initial_trunk
from gesturepose.data.augment import augment
from gesturepose.data.clips import Stream, evaluation_loader, step_loader, training_loader
from gesturepose.data.prepared import OUTSIDE
from gesturepose.engine import Execution, infer, predict, quick_scores, train_epoch
from gesturepose.errors import InputError
from gesturepose.losses import CollaborativeCriterion
from gesturepose.params import LossSettings
from gesturepose.references.flow import LARGEST, STACK, FlowStacks, farneback, flow_codes, write_flow
from gesturepose.references.gesture_only import GestureCriterion, OtherInput, gesture_predictions
from gesturepose.references.hand_object import build_hand_object
from gesturepose.references.pose_lstm import FramePoses, PoseLstm, RecurrentClassifier
from gesturepose.references.two_stream import both_streams, colour_stream, flow_stream
from gesturepose.skeleton import JOINTS, WRIST

B, T, S, A = 2, 4, 32, 5
CPU = Execution(torch.device("cpu"), torch.float32)
GESTURE_ONLY = ("lstm", "colour", "flow")
WITH_POSES = ("HP", "HP + AC")


def build(name, params, *, gestures=A):
    torch.manual_seed(0)
    trunk = initial_trunk(params.network, seed=0)
    match name:
        case "lstm":
            return PoseLstm(gestures)
        case "colour":
            return colour_stream(trunk, gestures=gestures)
        case "flow":
            return flow_stream(trunk, gestures=gestures)
        case _:
            return build_hand_object(
                params.network, trunk, gestures=gestures, image_size=S, frame_actions=name == "HP + AC"
            )


def clip_input(name, clips=B, frames=T):
    torch.manual_seed(7)
    if name == "lstm":
        return 100 * torch.randn(clips, frames, JOINTS, 3)
    channels = 2 * STACK if name == "flow" else 3
    return 255 * torch.rand(clips, frames, channels, S, S)


def logits_of(output):
    return output[-1].logits if isinstance(output, list) else output


@pytest.mark.parametrize("name", GESTURE_ONLY)
def test_logits_alone_and_gradients_everywhere(name, params):
    network = build(name, params)
    logits = network(clip_input(name), torch.ones(B, T, dtype=torch.bool))
    assert logits.shape == (B, A)
    (logits * torch.arange(A)).sum().backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("name", WITH_POSES)
def test_poses_and_logits_and_gradients_of_the_criterion_everywhere(name, params, prepared):
    network = build(name, params, gestures=len(prepared.gestures))
    (batch,) = training_loader(prepared, prepared.split("train")[:3], segments=T, clips_per_batch=3, seed=0, epoch=1)
    outputs = network(batch.video, batch.frame_valid)
    assert len(outputs) == 1 + (name == "HP + AC")
    for output in outputs:
        assert output.heatmaps.shape == (3, T, JOINTS, S // 4, S // 4)
        assert output.depth_rel.shape == (3, T, JOINTS) and output.logits.shape == (3, len(prepared.gestures))
        assert torch.equal(output.depth_rel[..., WRIST], torch.zeros(3, T))
    CollaborativeCriterion(LossSettings(heatmap=1.0, depth=0.01, gesture=0.01))(outputs, batch).total.backward()
    assert [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("name", WITH_POSES)
def test_single_images_learn_nothing_from_the_recurrent_network(name, params):
    """And those of HP nothing from gestures at all."""
    network = build(name, params)
    *frames, last = network(clip_input(name), torch.ones(B, T, dtype=torch.bool))
    last.logits.square().sum().backward(retain_graph=True)
    assert network.recurrent.lstm.weight_ih_l0.grad.any() and network.trunk.stem[0].weight.grad is None
    assert len(frames) == (name == "HP + AC")
    for output in frames:
        output.logits.square().sum().backward()
        assert network.trunk.stem[0].weight.grad.any()


@pytest.mark.parametrize("name", GESTURE_ONLY + WITH_POSES)
def test_frames_that_do_not_count_have_no_influence(name, params):
    network = build(name, params).eval()
    video = clip_input(name)
    valid = torch.tensor([[True, False, True, True], [True, True, True, False]])
    other = torch.where(valid.view(B, T, *[1] * (video.dim() - 2)), video, 77.0)
    with torch.no_grad():
        logits = logits_of(network(video, valid))
        torch.testing.assert_close(logits_of(network(other, valid)), logits)
        everything = logits_of(network(video, torch.ones_like(valid)))
        assert (everything - logits).abs().amax() > 1e-6
        assert torch.isfinite(logits_of(network(video, torch.zeros_like(valid)))).all()


@pytest.mark.parametrize("name", GESTURE_ONLY + WITH_POSES)
def test_batched_equals_single(name, params):
    network = build(name, params).eval()
    video = clip_input(name)
    valid = torch.tensor([[True, True, True, True], [True, False, True, False]])
    with torch.no_grad():
        together = logits_of(network(video, valid))
        for b in range(B):
            alone = logits_of(network(video[b : b + 1], valid[b : b + 1]))
            torch.testing.assert_close(alone, together[b : b + 1], rtol=1e-4, atol=1e-6)


def test_padding_an_lstm_is_packing_it():
    torch.manual_seed(0)
    network = RecurrentClassifier(3, width=7, gestures=A).double()
    features = torch.randn(2, 6, 3, dtype=torch.float64)
    valid = torch.tensor([[True, True, False, True, False, True], [False, True, True, False, False, False]])
    features[~valid] = torch.nan
    packed = nn.utils.rnn.pack_sequence([features[b, valid[b]] for b in range(2)])
    states, lengths = nn.utils.rnn.pad_packed_sequence(network.lstm(packed)[0], batch_first=True)
    assert lengths.tolist() == [4, 2]
    expected = network.classify(states.sum(dim=1) / lengths[:, None])
    torch.testing.assert_close(network(features, valid), expected, rtol=1e-12, atol=1e-12)


def test_the_lstm_sees_shape_and_order_and_not_place(params):
    network = build("lstm", params).eval()
    poses = clip_input("lstm")
    valid = torch.ones(B, T, dtype=torch.bool)
    with torch.no_grad():
        logits = network(poses, valid)
        moved = poses + torch.tensor([30.0, -70.0, 400.0])
        torch.testing.assert_close(network(moved, valid), logits, rtol=1e-3, atol=1e-5)
        assert not torch.allclose(network(poses.flip(1), valid), logits, atol=1e-4)
        poses[0, 1, 5, 2] = torch.nan
        known = valid.clone()
        known[0, 1] = False
        assert torch.equal(network(poses, valid), network(poses, known))


def test_poses_are_of_the_right_video_and_frame(prepared):
    videos = prepared.split("test")
    poses = FramePoses.annotated(prepared)
    seen = 0
    for batch in OtherInput(evaluation_loader(prepared, videos, segments=T, clips_per_batch=3), poses):
        for b, number in enumerate(batch.video_index.tolist()):
            for t, frame in enumerate(batch.frame_index[b].tolist()):
                expected = prepared.joints_cam_mm[prepared.videos[number].start + frame]
                assert np.array_equal(batch.video[b, t].numpy(), expected, equal_nan=True)
                seen += 1
    assert seen >= sum(video.frames for video in videos)


def test_predicted_poses_come_by_video(params, prepared):
    network = build("HP", params, gestures=len(prepared.gestures))
    splits = ("train", "test")
    predictions = []
    for split in splits:
        batches = evaluation_loader(prepared, prepared.split(split), segments=T, clips_per_batch=4)
        predictions.append(predict(infer(network, batches, CPU, title=split), prepared, prepared.split(split)))
    table = FramePoses.predicted(prepared, *predictions).joints_mm
    covered = np.zeros(len(table), dtype=bool)
    for split, of_split in zip(splits, predictions, strict=True):
        for position, video in enumerate(prepared.split(split)):
            rows = slice(video.start, video.start + video.frames)
            assert np.array_equal(table[rows], of_split.joints_cam_mm[of_split.video_of_frame == position])
            covered[rows] = True
    assert covered.any() and np.isnan(table[~covered]).all() and (~covered).any()
    with pytest.raises(InputError, match="the predictions' video Subject_9/x/1 is not that of the prepared data"):
        FramePoses.predicted(prepared, replace(predictions[0], keys=np.array(["Subject_9/x/1"])))


def textured(size, shift):
    """A smooth random picture, seen through a window that has moved by `shift` (u, v) px."""
    noise = np.random.default_rng(5).random((6, 6)) * 255
    fine = torch.nn.functional.interpolate(torch.tensor(noise)[None, None], size=size + 20, mode="bicubic")[0, 0]
    grey = fine.clamp(0, 255).numpy().astype(np.uint8)
    return grey[10 - shift[1] : 10 - shift[1] + size, 10 - shift[0] : 10 - shift[0] + size]


def test_flow_is_the_motion_of_the_picture():
    flow = farneback(textured(48, (0, 0)), textured(48, (2, -1)))
    np.testing.assert_allclose(flow[12:-12, 12:-12].mean(axis=(0, 1)), [2.0, -1.0], atol=0.15)


def test_codes_are_zero_at_the_end_and_beside_unreadable_frames():
    size = 48
    frames = np.stack([np.repeat(textured(size, (n, 0))[..., None], 3, axis=2) for n in range(5)])
    codes = flow_codes(frames, np.array([True, True, False, True, True]))
    assert codes.shape == (5, size, size, 2)
    for still in (1, 2, 4):
        assert (codes[still] == OUTSIDE).all()
    step = 127 / (LARGEST * size)  # codes of one px
    for moving in (0, 3):
        np.testing.assert_allclose(codes[moving, 12:-12, 12:-12, 0].mean(), OUTSIDE + step, atol=0.2 * step)


def test_flow_files_do_not_depend_on_threads_and_stacks_end_with_the_video(prepared, tmp_path):
    for workers in (1, 3):
        write_flow(prepared, tmp_path / f"{workers}.npy", workers=workers)
    assert (tmp_path / "1.npy").read_bytes() == (tmp_path / "3.npy").read_bytes()
    stacks = FlowStacks.open(tmp_path / "1.npy", prepared)
    number, video = next((n, v) for n, v in enumerate(prepared.videos) if v.frames >= STACK + 2)
    frames = torch.tensor([[0, 1, video.frames - 3, video.frames - 1]])
    seen = stacks(torch.tensor([number]), frames)
    assert seen.shape == (1, 4, 2 * STACK, S, S) and seen.dtype == torch.uint8
    codes = torch.from_numpy(np.array(stacks.codes[video.start : video.start + video.frames]))
    assert torch.equal(seen[0, 1, 2:4], codes[2].permute(2, 0, 1))  # the second flow from frame 1 on
    assert torch.equal(seen[0, 2, 2:4], codes[video.frames - 2].permute(2, 0, 1))  # the last there is
    assert torch.equal(seen[0, 2, 4:6], seen[0, 2, 2:4]) and torch.equal(seen[0, 3, :2], seen[0, 2, 2:4])


def test_a_flow_file_of_other_data_is_refused(prepared, tmp_path):
    with pytest.raises(InputError, match="no such file"):
        FlowStacks.open(tmp_path / "flow.npy", prepared)
    np.save(tmp_path / "flow.npy", np.zeros((3, S, S, 2), dtype=np.uint8))
    with pytest.raises(InputError, match=r"uint8 \[3, 32, 32, 2\]; by the prepared data it is"):
        FlowStacks.open(tmp_path / "flow.npy", prepared)


def test_flow_is_augmented_as_the_picture_and_its_vectors_scale(params, prepared):
    settings = params.augment.model_copy(update={"shift": 0.0, "scale": 0.5, "blur": 0.0})
    (batch,) = training_loader(prepared, prepared.split("train")[:3], segments=T, clips_per_batch=3, seed=0, epoch=1)
    constant = torch.full((3, T, 2 * STACK, S, S), OUTSIDE + 40, dtype=torch.uint8)
    stacks = FlowStacks(prepared, np.zeros((1, S, S, 2), dtype=np.uint8))
    changed = stacks.augment(replace(batch, video=constant), settings, seed=0, epoch=1)
    moved = augment(batch, settings, seed=0, epoch=1).joints_uv_crop_px
    centre = (S - 1) / 2
    assert changed.video.shape == constant.shape
    for b in range(3):
        scale = ((moved[b] - centre) / (batch.joints_uv_crop_px[b] - centre)).mean()  # of the joints, as of the picture
        torch.testing.assert_close(changed.video[b, :, :, S // 2, S // 2] - OUTSIDE, (40 * scale).expand(T, 2 * STACK))
    assert (changed.video[:, :, :, S // 2, S // 2] != OUTSIDE + 40).any()


def test_the_wide_convolution_has_the_mean_of_the_colours(params):
    colour, flow = build("colour", params), build("flow", params)
    mean = colour.stem[0].weight.mean(dim=1)
    assert flow.stem[0].weight.shape[1] == 2 * STACK
    for channel in (0, 2 * STACK - 1):
        torch.testing.assert_close(flow.stem[0].weight[:, channel], mean)


def test_the_two_streams_vote_by_their_softmax(prepared):
    videos = prepared.split("test")[:2]
    empty = gesture_predictions([], prepared, videos)
    colour = np.log(np.array([[0.7, 0.2, 0.1], [0.1, 0.8, 0.1]], dtype=np.float32))
    flow = np.log(np.array([[0.1, 0.6, 0.3], [0.5, 0.3, 0.2]], dtype=np.float32)) + np.float32(3.0)
    both = both_streams(replace(empty, logits=colour), replace(empty, logits=flow))
    np.testing.assert_allclose(np.exp(both.logits), [[0.4, 0.4, 0.2], [0.3, 0.55, 0.15]], atol=1e-6)
    assert list(both.keys) == [video.key for video in videos]


def test_videos_have_the_mean_of_their_clips(prepared):
    videos = prepared.split("test")[1:]
    batches = list(evaluation_loader(prepared, videos, segments=3, clips_per_batch=2))
    generator = torch.Generator().manual_seed(1)
    outputs = [(b, torch.randn(len(b.gesture), len(prepared.gestures), generator=generator)) for b in batches]
    nothing = replace(batches[0], frame_valid=torch.zeros_like(batches[0].frame_valid))
    found = gesture_predictions([*outputs, (nothing, torch.full_like(outputs[0][1], 9.0))], prepared, videos)
    assert found.frame_valid.all() and np.isnan(found.joints_cam_mm).all()
    assert np.array_equal(found.gesture, [video.gesture for video in videos])
    index = torch.cat([b.video_index for b in batches])
    stacked = torch.cat([values for _, values in outputs])
    positions = [video.key for video in prepared.videos]
    assert len(index) > len(videos)  # some videos have several clips
    for place, video in enumerate(videos):
        expected = stacked[index == positions.index(video.key)].mean(dim=0)
        np.testing.assert_allclose(found.logits[place], expected.numpy(), atol=1e-6)


def test_masked_gestures_never_reach_the_loss(prepared):
    videos = prepared.split("train")
    labelled = frozenset(video.key for video in videos[:2])
    (batch,) = step_loader(
        prepared, [Stream(videos[:3], 3)], segments=3, first_step=0, steps=1, seed=0, gesture_labelled=labelled
    )
    assert batch.gesture_valid.sum() == 2 and (batch.gesture == -1).sum() == 1
    logits = torch.randn(3, len(prepared.gestures))
    losses = GestureCriterion()(logits, batch)
    expected = nn.functional.cross_entropy(logits[batch.gesture_valid], batch.gesture[batch.gesture_valid])
    torch.testing.assert_close(losses.total, expected)
    none = replace(batch, gesture_valid=torch.zeros(3, dtype=torch.bool))
    assert GestureCriterion()(torch.full_like(logits, torch.inf), none).total == 0


@pytest.mark.parametrize("name", GESTURE_ONLY + WITH_POSES)
def test_overfits_one_batch_under_the_engine(name, params, prepared, tmp_path):
    """A fixed number of steps of the same clips to 100 % of their videos' classes, in evaluation mode."""
    videos = tuple({video.gesture: video for video in prepared.split("train")}.values())  # one of each class
    steps = {"lstm": 60, "colour": 40, "flow": 40, "HP": 80, "HP + AC": 80}[name]
    unchanged = {"shift": 0.0, "scale": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "blur": 0.0}
    settings = params.augment.model_copy(update=unchanged)
    network = build(name, params, gestures=len(prepared.gestures))
    # All steps see the clips of step 0.
    same = [next(iter(step_loader(prepared, [Stream(videos, 4)], segments=5, first_step=0, steps=1, seed=0)))] * steps
    change = partial(augment, settings=settings, seed=0, epoch=0)
    criterion = GestureCriterion()
    test_batches = evaluation_loader(prepared, videos, segments=5, clips_per_batch=3)
    if name == "lstm":
        poses = FramePoses.annotated(prepared)
        same, test_batches, change = OtherInput(same, poses), OtherInput(test_batches, poses), lambda batch: batch
    elif name == "flow":
        write_flow(prepared, tmp_path / "flow.npy", workers=2)
        flow = FlowStacks.open(tmp_path / "flow.npy", prepared)
        change = partial(flow.augment, settings=settings, seed=0, epoch=0)
        same, test_batches = OtherInput(same, flow), OtherInput(test_batches, flow)
    elif name in WITH_POSES:
        criterion = CollaborativeCriterion(LossSettings(heatmap=1.0, depth=0.001, gesture=0.01))
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2 if name == "lstm" else 5e-3, fused=True)
    train_epoch(network, criterion, optimiser, same, CPU, prepare=change, title=name)
    outputs = infer(network, test_batches, CPU, title=name)
    true = np.array([video.gesture for video in videos])
    if name in WITH_POSES:
        predictions = predict(outputs, prepared, videos)
        scores = quick_scores(predictions)
        assert scores["accuracy"] == 1.0 and scores["pck_30"] > 0.8, scores
    else:
        assert (gesture_predictions(outputs, prepared, videos).logits.argmax(axis=1) == true).all()
