"""Search: the space, storage, pruning and its replay, label subsets in the pipeline's trainings; what is refused."""

import json
import multiprocessing
import re
from pathlib import Path

import numpy as np
import optuna
import pytest
import torch
from optuna.distributions import CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial
from ruamel.yaml import YAML

from gesturepose.backbone import initial_trunk
from gesturepose.data.labels import labelled_videos
from gesturepose.errors import InputError
from gesturepose.experiment import fit
from gesturepose.params import PARAMS_FILE, Params, load_params, set_values, with_values
from gesturepose.search import figures, pruning
from gesturepose.search.pruning import build_pruner, prunes, replay
from gesturepose.search.space import distributions, label_cost, settings_of, suggested_from, trial_params
from gesturepose.search.storage import VARIABLE, Journal, open_storage, shown_name, whole_length
from gesturepose.trainings import collaborative_training, finetuning


def searched(params, **changes):
    """Checked as params.yaml is."""
    tree = params.model_dump(mode="json")
    tree["search"] |= changes
    return Params.model_validate_json(json.dumps(tree))


# The space


def test_every_kind_of_dimension_becomes_a_distribution_and_its_value_a_setting(params):
    streams = [["zero"], ["zero", "first_slow"]]
    params = searched(
        params,
        space={
            "loss.depth": {"low": 0.001, "high": 0.1, "log": True},
            "loss.heatmap": {"low": 1, "high": 3},
            "network.iterations": {"low": 1, "high": 5},
            "network.streams": {"choices": streams},
            "network.share_iterations": {"choices": [True, False]},
        },
        fixed={"train.epochs": 7},
    )
    space = distributions(params)
    assert isinstance(
        space["loss.heatmap"], optuna.distributions.FloatDistribution
    )  # though its bounds are written 1, 3
    assert isinstance(space["network.iterations"], optuna.distributions.IntDistribution)
    assert space["loss.depth"].log and not space["loss.heatmap"].log
    trial = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3)).ask(space)
    settings = settings_of(params, trial.params)
    assert settings["train.epochs"] == 7 and settings["network.streams"] in streams
    found = trial_params(params, settings)
    assert found.train.epochs == 7 and list(found.network.streams) == settings["network.streams"]
    assert found.loss.depth == settings["loss.depth"] and found.runtime.threads == params.search.threads
    assert suggested_from(params, trial.params | {"loss.gesture": 0.1}) == trial.params
    assert suggested_from(params, {"loss.depth": 0.2, "network.streams": '["first_fast"]'}) == {}


def test_settings_go_into_the_file_and_come_back(params, tmp_path):
    path = tmp_path / "params.yaml"
    before = path.read_text()
    changes = set_values({"network.streams": ["zero", "first_fast"], "loss.depth": 0.0123}, path)
    found = load_params(path)
    assert (found.network.streams, found.loss.depth) == (("zero", "first_fast"), 0.0123) and len(changes) == 2
    differing = [
        line for line, other in zip(before.splitlines(), path.read_text().splitlines(), strict=False) if line != other
    ]
    assert len(differing) <= 3 and all("streams" in line or "depth" in line or "fast" in line for line in differing)
    with pytest.raises(InputError, match=r"network\.iterations"):
        set_values({"network.iterations": 9}, path)
    assert load_params(path).network == found.network


@pytest.mark.parametrize(
    ("changes", "key", "words"),
    [
        (
            {"space": {"loss.deph": {"low": 1, "high": 2}}},
            "loss.deph",
            "no setting of a trial, .*did you mean loss.depth",
        ),
        ({"space": {"weak.segments": {"low": 3, "high": 5}}}, "weak.segments", "no setting of a trial"),
        ({"space": {"loss.depth": {"low": 0.2, "high": 0.1}}}, "loss.depth", "low 0.2 is not below high 0.1"),
        ({"space": {"loss.depth": {"low": 0, "high": 0.1, "log": True}}}, "loss.depth", "low 0 has no logarithm"),
        ({"space": {"loss.depth": {"low": 0.1}}}, "loss.depth", "write {low"),
        ({"space": {"loss.depth": {"choices": [0.1, 0.2], "log": True}}}, "loss.depth", "choices stand alone"),
        ({"space": {"loss.depth": {"choices": [0.1, 0.1]}}}, "loss.depth", "stands in choices twice"),
        ({"space": {"loss.depth": {"choices": [0.1]}}}, "loss.depth", "two entries or more"),
        (
            {"space": {"loss.depth": {"low": "a", "high": 2}}},
            "low",
            'loss.depth.low is "a": input should be a valid number',
        ),
        ({"space": {"loss.depth": {"low": 1, "hihg": 2}}}, "hihg", "did you mean search.space.loss.depth.high"),
        ({"space": {"network.iterations": {"low": 1, "high": 6}}}, "network.iterations", "cannot be 6: .*less than"),
        ({"space": {"network.iterations": {"low": 1.5, "high": 3}}}, "network.iterations", "cannot be 1.5"),
        ({"space": {"network.streams": {"choices": [["zero"], ["second"]]}}}, "network.streams", "cannot be"),
        ({"space": {}}, "space", "at least 1"),
        ({"fixed": {"train.epoch": 3}}, "train.epoch", "fixed.train.epoch: no setting .*did you mean train.epochs"),
        ({"fixed": {"loss.depth": 0.1}}, "loss.depth", "fixed.loss.depth: .*stands in space and in fixed"),
        ({"objective": "best"}, "objective", "objective"),
        ({"objective": "cheapest"}, "objective", "neither labels.pose nor labels.gesture"),
        (
            {"space": {"labels.pose": {"low": 0.2, "high": 1.0}, "labels.gesture": {"choices": [0.2, 0.5]}}},
            "labels.pose",
            "no trial may withhold both",
        ),
        (
            {"space": {"labels.pose": {"low": 0.2, "high": 1.0}}, "fixed": {"labels.gesture": 0.5}},
            "labels.gesture",
            "fixed.labels.gesture: .*is fixed below 1, and labels.pose has no value of 1",
        ),
    ],
)
def test_a_space_that_cannot_be_searched_is_refused_with_its_line(tmp_path, changes, key, words):
    file = tmp_path / "params.yaml"
    tree = YAML().load((Path(__file__).parents[1] / PARAMS_FILE).read_text())
    tree["search"].update(changes)
    YAML().dump(tree, file)
    with pytest.raises(InputError, match=words) as caught:
        load_params(file)
    (said,) = [line for line in str(caught.value).splitlines() if "params.yaml:" in line]  # one, not one a type
    line = file.read_text().splitlines()[int(re.search(r"params\.yaml:(\d+): ", said)[1]) - 1]
    assert line.strip().startswith(f"{key}:")


def test_choices_that_are_lists_stand_line_by_line_on_the_figures():
    study = optuna.create_study()
    space = {"steps": CategoricalDistribution(["[]", "[0.6, 0.85]"]), "share": CategoricalDistribution(["all", False])}
    for steps, share in (("[]", False), ("[0.6, 0.85]", "all")):
        study.add_trial(create_trial(value=0.5, params={"steps": steps, "share": share}, distributions=space))
    found = figures.with_short_choices(study, "<br>")
    assert [trial.params for trial in found.trials] == [
        {"steps": "none", "share": False},
        {"steps": "0.6<br>0.85", "share": "all"},
    ]
    assert [trial.params["steps"] for trial in study.trials] == ["[]", "[0.6, 0.85]"]  # as it was


def test_settings_that_do_not_fit_together_are_refused(params):
    with pytest.raises(InputError, match=r"labels.pose 0.5, labels.gesture 0.5 do not fit: .*both below 1"):
        with_values(params, {"labels.pose": 0.5, "labels.gesture": 0.5})


# Labels that are withheld


@pytest.mark.parametrize("kind", ["pose", "gesture"])
def test_a_label_that_is_withheld_is_in_no_batch_and_every_batch_has_both_kinds_of_clips(params, prepared, kind):
    params = with_values(params, {f"labels.{kind}": 0.4, "labels.labelled_share": 0.3, "train.clips_per_batch": 5})
    few = labelled_videos(prepared.split("train"), 0.4, kind=kind, seed=0)
    trunk = initial_trunk(params.network, seed=0)
    training = collaborative_training(params, prepared, trunk)
    seen = set()
    for epoch in (1, 2):
        batches = list(training.batches(epoch))
        assert len(batches) == len(prepared.split("train")) // 5
        for batch in batches:
            keys = [prepared.videos[index].key for index in batch.video_index.tolist()]
            assert [key in few for key in keys] == [True, True, False, False, False]  # 0.3 of 5, rounded
            pose_given = batch.joint_valid.flatten(1).any(1)
            given = pose_given if kind == "pose" else batch.gesture_valid
            assert given.tolist() == [key in few for key in keys]
            assert (batch.gesture_valid if kind == "pose" else pose_given).all()
            seen |= set(keys)
    assert len(seen & few) == len(few)
    tuned = finetuning(params, prepared, trunk)
    assert {video.key for video in tuned.train_videos} == (
        few if kind == "pose" else {v.key for v in prepared.split("train")}
    )
    videos = prepared.split("train")
    assert label_cost(params, prepared) == pytest.approx((len(few) / len(videos) + 1) / 2)


def test_all_labels_are_the_training_without_section_labels(params, prepared):
    """And then neither its seed nor its share changes a bit."""
    other = with_values(params, {"labels.seed": 7, "labels.labelled_share": 0.9})
    weights = []
    for settings in (params, other):
        training = collaborative_training(settings, prepared, initial_trunk(params.network, seed=0))
        next(fit(training))
        weights.append(training.network.state_dict())
    assert all(torch.equal(weights[0][name], tensor) for name, tensor in weights[1].items())


def test_a_batch_of_one_clip_cannot_hold_both_kinds(params, prepared):
    params = with_values(params, {"labels.pose": 0.4, "train.clips_per_batch": 1})
    with pytest.raises(InputError, match="clips_per_batch is 1"):
        collaborative_training(params, prepared, initial_trunk(params.network, seed=0))


# Pruning


CURVES = [{1: 0.1, 2: 0.5, 3: 0.6}, {1: 0.2, 2: 0.4, 3: 0.7}, {1: 0.3, 2: 0.3, 3: 0.3}]


def test_the_replay_of_the_median_is_what_it_says(params):
    """After one whole trial, from the first epoch on, against the whole trials: worked out for each of six orders."""
    settings = params.search.model_copy(update={"pruner": "median", "random_trials": 1, "unpruned_epochs": 1})
    expected = {}
    for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)):
        done, trained, reached = [], 0, []
        for index in order:
            seen = {}
            for epoch, value in CURVES[index].items():
                seen[epoch] = value
                others = [other[epoch] for other in done]
                if epoch < 3 and others and max(seen.values()) < np.median(others):
                    break
            trained += len(seen)
            if len(seen) == 3:
                done.append(seen)
                reached.append(max(CURVES[index].values()))
        expected[order] = (1 - trained / 9, 0.7 - max(reached))
    rng = np.random.default_rng(5)
    orders = [tuple(rng.permutation(3)) for _ in range(40)]
    worth = [max(curve.values()) for curve in CURVES]
    found = replay(CURVES, worth, settings, orders=40, seed=5)
    assert found.saved == pytest.approx([expected[order][0] for order in orders])
    assert found.regret == pytest.approx([expected[order][1] for order in orders])
    assert found.saved.max() > 0 and len(set(orders)) == 6


@pytest.mark.parametrize("pruner", ["median", "hyperband", "none"])
def test_an_equal_trial_is_never_the_worse_and_none_saves_nothing(params, pruner):
    settings = params.search.model_copy(update={"pruner": pruner, "random_trials": 2, "unpruned_epochs": 1})
    curves = [{epoch: 0.1 * epoch for epoch in range(1, 10)}] * 5
    found = replay(curves, [0.9] * 5, settings, orders=7, seed=0)
    assert (found.regret == 0).all() and (pruner != "none" or (found.saved == 0).all())
    with pytest.raises(ValueError, match="no curve"):
        replay([], [], settings, orders=1, seed=0)


def test_pruning_by_the_declared_value_is_optunas_own(params):
    """A study of two objectives, whose trials note their curves, against one that reports them."""
    settings = params.search.model_copy(update={"pruner": "median", "random_trials": 1, "unpruned_epochs": 1})
    own = optuna.create_study(direction="maximize", pruner=build_pruner(settings, 3))
    front = optuna.create_study(directions=["maximize", "maximize"])
    for curve in (CURVES[1], CURVES[0], CURVES[2], {1: 0.6, 2: 0.1, 3: 0.1}):
        one, other = own.ask(), front.ask()
        for epoch, value in curve.items():
            one.report(value, epoch)
            noted = {e: v for e, v in curve.items() if e <= epoch}
            other.set_user_attr(pruning.CURVE, noted)
            asked = prunes(settings, 3, "front", front.get_trials(deepcopy=False), other.number)
            assert asked == one.should_prune()
            if asked:
                break
        state = TrialState.PRUNED if asked else TrialState.COMPLETE
        own.tell(one, None if asked else max(curve.values()), state=state)
        front.tell(other, None if asked else [1.0, 1.0], state=state)
    assert [trial.state for trial in own.trials] == [trial.state for trial in front.trials]
    assert TrialState.PRUNED in {trial.state for trial in front.trials}


# Storage


def test_a_torn_line_is_cut_off_and_both_tools_read_on(tmp_path):
    file = tmp_path / "studies.journal"
    study = optuna.create_study(study_name="one", storage=JournalStorage(Journal(file)))
    study.add_trial(optuna.trial.create_trial(value=0.5))
    whole = file.read_bytes()
    file.write_bytes(whole + b'{"op_code":4,"worker')  # a writer that was killed
    assert whole_length(file) == len(whole)
    again = optuna.load_study(study_name="one", storage=JournalStorage(Journal(file)))
    again.add_trial(optuna.trial.create_trial(value=0.25))
    assert file.read_bytes().startswith(whole) and all(json.loads(line) for line in file.read_bytes().splitlines())
    plain = optuna.load_study(study_name="one", storage=JournalStorage(JournalFileBackend(str(file))))
    assert [trial.value for trial in plain.trials] == [trial.value for trial in again.trials] == [0.5, 0.25]
    file.write_bytes(b"no newline at all")
    assert whole_length(file) == 0


def _add(file, number, started):
    started.wait()
    study = optuna.load_study(study_name="one", storage=JournalStorage(Journal(Path(file))))
    for part in range(5):
        study.add_trial(optuna.trial.create_trial(value=float(10 * number + part)))


def test_writers_beside_each_other_lose_no_line(tmp_path):
    file = tmp_path / "studies.journal"
    optuna.create_study(study_name="one", storage=JournalStorage(Journal(file)))
    context = multiprocessing.get_context("spawn")
    started = context.Barrier(4)
    writers = [context.Process(target=_add, args=(str(file), number, started)) for number in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    study = optuna.load_study(study_name="one", storage=JournalStorage(Journal(file)))
    assert sorted(trial.value for trial in study.trials) == sorted(10.0 * n + p for n in range(4) for p in range(5))


def test_a_name_that_is_no_storage_is_refused_and_creates_nothing(tmp_path, monkeypatch):
    (tmp_path / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, "nonsense")
    with pytest.raises(InputError, match="OPTUNA_STORAGE is nonsense, which is no address and no journal"):
        open_storage()
    assert not (tmp_path / "nonsense").exists()


@pytest.mark.parametrize(
    "name",
    [
        "postgresql://someone:secret@127.0.0.1:9/none",
        "postgresql://127.0.0.1:9/none?user=someone&password=secret",
        "nonsense://someone:secret@here",
        "sqlite:////nowhere/at/all.db",
    ],
)
def test_a_storage_that_cannot_be_reached_is_named_without_its_password(tmp_path, monkeypatch, name):
    (tmp_path / ".dvc").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(VARIABLE, name)
    with pytest.raises(InputError, match=r"the storage of studies .* does not work") as caught:
        open_storage()
    assert "secret" not in str(caught.value) and "secret" not in shown_name()
    assert ":***@" in shown_name() or ":secret@" not in name
