"""Settings: what is refused, with which words, and that profiles switch without losing anything."""

import re
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from gesturepose.errors import InputError
from gesturepose.params import apply_profile, flatten, load_params, profile_names, read_profile

PROJECT = Path(__file__).parent.parent


@pytest.fixture
def file(tmp_path):
    return Path(shutil.copy(PROJECT / "params.yaml", tmp_path / "params.yaml"))


def edit(file, old, new):
    text = file.read_text()
    assert text.count(old) >= 1
    file.write_text(text.replace(old, new, 1))
    return text[: text.index(old)].count("\n") + 1  # the line that was edited


def refusal(file):
    with pytest.raises(InputError) as caught:
        load_params(file)
    return str(caught.value)


def test_the_committed_default_is_the_demo_profile(file):
    before = file.read_text()
    assert apply_profile("demo", file) == []
    assert file.read_text() == before


@pytest.mark.parametrize("name", ["paper", "test"])
def test_profiles_switch_there_and_back(file, name):
    before = file.read_text()
    changes = apply_profile(name, file)
    assert changes and load_params(file) != load_params(PROJECT / "params.yaml")
    apply_profile("demo", file)
    assert file.read_text() == before  # comments, order and list style included


def test_all_profiles_set_the_same_keys():
    keys = [{key for key, _ in flatten(read_profile(name))} for name in profile_names()]
    assert len(keys) == 3 and keys[0] == keys[1] == keys[2]


def test_the_paper_profile_is_the_papers_settings(file):
    apply_profile("paper", file)
    params = load_params(file)
    assert (params.network.backbone, params.network.channels, params.network.iterations) == ("resnet50", 16, 2)
    assert (params.prepare.image_size, params.train.segments, params.train.clips_per_batch) == (256, 8, 4)
    assert (params.train.learning_rate, params.train.schedule) == (1e-4, "plateau")
    assert (params.loss.heatmap, params.loss.depth, params.loss.gesture) == (1.0, 0.001, 0.001)


def test_own_values_survive_a_switch(file):
    edit(file, "shift: 0.06", "shift: 0.11")
    apply_profile("paper", file)
    assert load_params(file).augment.shift == 0.11


def test_unknown_profile_names_the_nearest(file):
    with pytest.raises(InputError, match=r"no profile 'papr'.*demo, paper, test(.|\n)*Did you mean paper"):
        apply_profile("papr", file)


def test_a_typo_names_key_line_and_nearest(file):
    line = edit(file, "  channels: 8", "  chanels: 8")
    message = refusal(file)
    assert f"{file}:{line}: unknown key network.chanels; did you mean network.channels?" in message
    assert "the key network.channels is missing" in message


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("epochs: 20", "epochs: five", 'finetune.epochs is "five"'),
        ("epochs: 20", "epochs: 5.5", "finetune.epochs is 5.5"),
        ("allow_missing: false", "allow_missing: 1", "data.allow_missing is 1"),
        ("segments: 8", "segments: 2", "finetune.segments is 2"),
        ("protocol: official", "protocol: officail", 'data.protocol is "officail"'),
        ("image_size: 64", "image_size: 60", "prepare.image_size is 60"),
        ("iterations: 2", "iterations: 6", "network.iterations is 6"),
        ("depth: 0.002", "depth: -1", "loss.depth is -1"),
        ("depth: 0.002", "depth: .nan", "loss.depth"),
        ("[zero, first_slow,", "[zero, zero,", "stands in the list twice"),
        ("steps_at: [0.6, 0.85]", "steps_at: [0.9, 0.6]", r"finetune.steps_at: it has to rise"),
        ("tcn_grid: 4", "tcn_grid: 3", "network.tcn_grid: 3 does not divide"),
        ("sets: [synthetic]", "sets: []", "data.root: it is data/synthetic, which generate.sets"),
        ("validation: 0.15", "validation: 0.0", "nothing to select by"),
    ],
)
def test_ill_typed_and_impossible_values_are_refused(file, old, new, words):
    edit(file, old, new)
    message = refusal(file)
    assert words in message and re.search(rf"{re.escape(str(file))}:\d+: ", message)


def test_every_entry_that_is_refused_is_told_and_each_value_once(file):
    line = edit(file, "rows: [baseline, multi_scale", "rows: [base_line, multi_scael")
    message = refusal(file)
    assert message.count(f"{file}:{line}: ablation.rows is ") == 2 == message.count(" ablation.rows")
    assert '"base_line"' in message and '"multi_scael"' in message


@pytest.mark.parametrize("key", ["1", "true", "~"])
def test_a_key_that_is_no_text_is_refused(file, key):
    line = edit(file, "  epochs: 20", f"  {key}: 20")
    assert f"{file}:{line}: the key {'null' if key == '~' else key} is no name of a setting" in refusal(file)


def test_a_missing_section_and_broken_yaml(file):
    text = file.read_text()
    file.write_text(text[: text.index("evaluate:")])
    assert "the key evaluate is missing" in refusal(file)
    file.write_text("data: [1, 2\ntrain: 3\n")
    assert f"{file}:2: not valid YAML" in refusal(file) or f"{file}:3: not valid YAML" in refusal(file)
    file.write_text("data: {root: a, root: b}\n")
    assert "not valid YAML" in refusal(file)
    file.unlink()
    assert "no such file" in refusal(file)


def test_exponents_without_a_point_are_numbers(file):
    edit(file, "learning_rate: 0.001", "learning_rate: 1e-4")
    assert load_params(file).finetune.learning_rate == 1e-4


def test_a_profile_that_does_not_fit_leaves_the_file_alone(file):
    edit(file, "tcn_layers: 2", "tcn_layers: 9")
    before = file.read_text()
    with pytest.raises(InputError, match=r"params\.yaml:\d+: network\.tcn_layers is 9"):
        apply_profile("paper", file)
    assert file.read_text() == before
    assert [path.name for path in file.parent.iterdir()] == ["params.yaml"]


def test_every_value_says_what_it_is_in_one_place():
    """params.yaml has no key that the types give a default for: values live there, types in Python."""
    tree = YAML(typ="safe").load((PROJECT / "params.yaml").read_text())
    params = load_params(PROJECT / "params.yaml")
    for section, settings in params:
        assert set(tree[section]) == set(type(settings).model_fields)
        assert all(field.is_required() for field in type(settings).model_fields.values())
