"""Training: resumed equals uninterrupted, weights come back, and bad files are refused."""

import pytest
import torch
from safetensors.torch import save_file

from gesturepose.backbone import initial_trunk
from gesturepose.checkpoint import load_into, load_state, load_weights, save_state, save_weights
from gesturepose.errors import InputError
from gesturepose.experiment import (
    fit,
    history_table,
    load_network,
    load_trunk,
    network_header,
    predict_videos,
    prepare_execution,
)
from gesturepose.optim import LearningRate, build_optimiser
from gesturepose.trainings import collaborative_training, finetuning


def train_settings(params, **changes):
    return params.model_copy(update={"train": params.train.model_copy(update=changes)})


@pytest.mark.parametrize("schedule", ["step", "plateau"])
def test_resumed_training_equals_uninterrupted(params, prepared, tmp_path, schedule):
    params = train_settings(params, epochs=3, schedule=schedule, patience=1)

    def new():
        return collaborative_training(params, prepared, initial_trunk(params.network, seed=0))

    whole = new()
    epochs = list(fit(whole))
    checkpoint = tmp_path / "state.pt"
    interrupted = fit(new(), checkpoint)
    next(interrupted)
    interrupted.close()  # as a kill after the first epoch would
    resumed = new()
    rest = list(fit(resumed, checkpoint))
    assert [epoch.number for epoch in rest] == [1, 2, 3]  # the first as it was, for whoever did not log it in time
    assert [epoch.metrics for epoch in rest] == [epoch.metrics for epoch in epochs]
    assert resumed.history == whole.history and resumed.best_value == whole.best_value
    for name, tensor in whole.weights().items():
        assert torch.equal(tensor, resumed.weights()[name]), name
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, resumed.network.state_dict()[name]), name


def test_best_epoch_is_by_validation_and_last_is_last(params, prepared):
    trunk = initial_trunk(params.network, seed=0)
    best = collaborative_training(train_settings(params, epochs=3, select="best"), prepared, trunk)
    epochs = list(fit(best))
    values = [epoch.value for epoch in epochs]
    assert best.best_value == max(values)
    assert [epoch.is_best for epoch in epochs] == [
        value > max(values[:n], default=-1) for n, value in enumerate(values)
    ]
    last = collaborative_training(
        train_settings(params, epochs=3, select="last"), prepared, initial_trunk(params.network, seed=0)
    )
    list(fit(last))
    assert all(torch.equal(tensor, last.network.state_dict()[name]) for name, tensor in last.weights().items())


def test_finetuning_trains_the_trunk_on_poses_alone(params, prepared):
    trunk = initial_trunk(params.network, seed=0)
    before = {name: tensor.clone() for name, tensor in trunk.state_dict().items()}
    training = finetuning(
        params.model_copy(update={"finetune": params.finetune.model_copy(update={"epochs": 2})}), prepared, trunk
    )
    epochs = list(fit(training))
    assert epochs[1].metrics["train/loss"] < epochs[0].metrics["train/loss"]
    assert epochs[0].metrics["train/loss"] == epochs[0].metrics["train/loss_heatmap"]
    assert any(not torch.equal(before[name], tensor) for name, tensor in trunk.state_dict().items())
    table = history_table(training.history)
    assert list(table["split"]) == ["train", "validation"] * 2 and list(table["epoch"]) == [1, 1, 2, 2]


def test_weights_come_back_and_predict_the_same(params, prepared, tmp_path):
    training = collaborative_training(train_settings(params, epochs=1), prepared, initial_trunk(params.network, seed=0))
    list(fit(training))
    path = tmp_path / "train.safetensors"
    save_weights(path, training.weights(), network_header(params.network, prepared))
    first = path.read_bytes()
    save_weights(path, training.weights(), network_header(params.network, prepared))
    assert path.read_bytes() == first
    results = [
        predict_videos(
            load_network(path, prepared),
            prepared,
            prepared.split("test"),
            params.runtime,
            segments=5,
            clips_per_batch=b,
        )
        for b in (3, 7)
    ]
    assert results[0].frame_valid.all()
    torch.testing.assert_close(torch.tensor(results[0].logits), torch.tensor(results[1].logits), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        torch.tensor(results[0].joints_cam_mm), torch.tensor(results[1].joints_cam_mm), rtol=1e-3, atol=0.5
    )


def test_a_trunk_of_other_channels_is_refused(params, tmp_path):
    trunk = initial_trunk(params.network, seed=0)
    path = tmp_path / "trunk.safetensors"
    save_weights(path, trunk.state_dict(), {})
    wider = params.network.model_copy(update={"channels": params.network.channels + 1})
    with pytest.raises(InputError, match=r"trunk\.safetensors: to_joints\..* is \[42.*has \[63"):
        load_trunk(wider, path)


def test_a_network_of_other_classes_or_size_is_refused(params, prepared, tmp_path):
    training = collaborative_training(train_settings(params, epochs=1), prepared, initial_trunk(params.network, seed=0))
    header = network_header(params.network, prepared)
    path = tmp_path / "train.safetensors"
    save_weights(path, training.network.state_dict(), header | {"gestures": ["wave"]})
    with pytest.raises(InputError, match="trained with gestures"):
        load_network(path, prepared)
    save_weights(path, training.network.state_dict(), header | {"image_size": 64})
    with pytest.raises(InputError, match="trained with image_size 64, but the prepared data has 32"):
        load_network(path, prepared)


def test_missing_foreign_and_broken_files_are_refused(tmp_path):
    with pytest.raises(InputError, match="no such weights"):
        load_weights(tmp_path / "none.safetensors")
    foreign = tmp_path / "foreign.safetensors"
    save_file({"a": torch.zeros(2)}, foreign)
    with pytest.raises(InputError, match="not weights of this project"):
        load_weights(foreign)
    foreign.write_bytes(b"torn")
    with pytest.raises(InputError, match="not weights of this project"):
        load_weights(foreign)
    assert load_state(tmp_path / "none.pt") is None
    torn = tmp_path / "torn.pt"
    save_state(torn, {"a": torch.ones(3)})
    assert torch.equal(load_state(torn)["a"], torch.ones(3))
    torn.write_bytes(torn.read_bytes()[:-20])
    with pytest.raises(InputError, match="a broken checkpoint"):
        load_state(torn)


def test_missing_and_unknown_tensors_are_named(tmp_path):
    module = torch.nn.Linear(2, 3)
    with pytest.raises(InputError, match="has no tensor bias"):
        load_into(module, {"weight": torch.zeros(3, 2)}, tmp_path)
    with pytest.raises(InputError, match="has an unknown tensor extra"):
        load_into(module, {**module.state_dict(), "extra": torch.zeros(1)}, tmp_path)


def test_pretrained_weights_from_a_file(params, tmp_path, monkeypatch):
    import torchvision

    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data" / "weights"
    folder.mkdir(parents=True)
    torch.manual_seed(7)
    resnet = torchvision.models.resnet18(weights=None)
    torch.save(resnet.state_dict(), folder / "mine.pth")
    trunk = initial_trunk(params.network.model_copy(update={"weights": "mine.pth"}), seed=0)
    assert torch.equal(trunk.stem[0].weight, resnet.conv1.weight)
    assert torch.equal(trunk.stages[2][1].conv2.weight, resnet.layer3[1].conv2.weight)
    random = initial_trunk(params.network, seed=0)
    assert torch.equal(trunk.to_joints.weight, random.to_joints.weight)  # the head does not depend on the weights
    with pytest.raises(InputError, match=r"absent\.pth: no such file of weights"):
        initial_trunk(params.network.model_copy(update={"weights": "absent.pth"}), seed=0)
    with pytest.raises(InputError, match=r"mine\.pth: .* is \["):
        initial_trunk(params.network.model_copy(update={"weights": "mine.pth", "backbone": "resnet50"}), seed=0)
    (folder / "mine.pth").write_bytes(b"not a state dict")
    with pytest.raises(InputError, match="not a state dict of tensors"):
        initial_trunk(params.network.model_copy(update={"weights": "mine.pth"}), seed=0)


def test_learning_rate_falls_tenfold(params):
    network = torch.nn.Linear(2, 2)
    plateau = params.train.model_copy(
        update={"schedule": "plateau", "patience": 2, "learning_rate": 1e-4, "stop_below": 1e-6}
    )
    rate = LearningRate(build_optimiser(network, plateau), plateau)
    done = [rate.after_epoch(1.0) for _ in range(10)]
    assert done == [False] * 9 + [True]  # the first loss counts as a fall, then every third epoch takes the rate down
    assert rate.value == pytest.approx(1e-7)
    step = params.train.model_copy(update={"schedule": "step", "epochs": 10, "steps_at": (0.5, 0.75)})
    rate = LearningRate(build_optimiser(network, step), step)
    values = []
    for _ in range(10):
        values.append(rate.value / step.learning_rate)
        rate.after_epoch(1.0)
    assert values == pytest.approx([1.0] * 5 + [0.1] * 3 + [0.01] * 2)


def test_a_diverged_loss_is_said(params, prepared):
    params = params.model_copy(update={"loss": params.loss.model_copy(update={"depth": 3e38})})
    training = collaborative_training(params, prepared, initial_trunk(params.network, seed=0))
    with pytest.raises(InputError, match=r"train 1/2: the loss is (nan|inf)(.|\n)*learning rate"):
        list(fit(training))


def test_cuda_that_is_not_there_is_said(params):
    if torch.cuda.is_available():
        assert prepare_execution(params.runtime.model_copy(update={"device": "cuda"})).device.type == "cuda"
    else:
        with pytest.raises(InputError, match="no CUDA device"):
            prepare_execution(params.runtime.model_copy(update={"device": "cuda"}))


def test_nothing_half_written_when_a_folder_is_not_writable(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        save_weights(blocked / "weights.safetensors", {"a": torch.zeros(1)}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
