"""Typed settings: params.yaml holds the values, this file their types, ranges and meaning.

Unknown, missing and ill-typed keys are refused with the key, the file, the line and the nearest valid name.
"""

from __future__ import annotations

import difflib
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    create_model,
    field_validator,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError

from gesturepose.errors import InputError

PARAMS_FILE = Path("params.yaml")
SYNTHETIC_ROOT = "data/synthetic"  # the one folder that the generate stage owns
HEATMAP_STRIDE = 4  # crop px per heatmap px: the trunk's stride 32 (16), and three (two) doublings

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Weight = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]
Ratio = Annotated[float, Field(gt=0.0, le=1.0)]
Rate = Annotated[float, Field(gt=0.0, le=1.0)]
Stream = Literal["zero", "first_slow", "first_fast", "second_slow", "second_fast"]
Method = Literal["baseline", "weak", "teacher"]
STREAMS: tuple[Stream, ...] = ("zero", "first_slow", "first_fast", "second_slow", "second_fast")
TRIAL_SECTIONS = ("network", "loss", "augment", "finetune", "train", "labels")  # what a study may search
NetworkRow = Literal[
    "baseline", "multi_scale", "multi_order", "complete",
    "zero_2", "zero_3", "zero_4", "zero_5", "all_3", "all_4", "all_5",
    "first", "second", "slow", "fast",
    "tcn_grid_1", "shared", "gradient",
]  # fmt: skip


class _Misfit(ValueError):
    """A value that is refused for what stands elsewhere: says at which key it is, below the section that checks."""

    def __init__(self, message: str, *at: str) -> None:
        super().__init__(message)
        self.at = at


def _rises(shares: tuple[float, ...]) -> tuple[float, ...]:
    if list(shares) != sorted(set(shares)):
        raise ValueError("it has to rise from entry to entry")
    return shares


Location = tuple[str | int, ...]  # of a value in params.yaml: keys, and indices of lists
StepsAt = Annotated[tuple[Share, ...], AfterValidator(_rises)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class DataSettings(_Section):
    """Which recordings, and how they divide into train, validation and test."""

    root: str
    protocol: Literal["official", "leave_one_person_out", "pose_cross_subject"]
    held_out_subject: Annotated[int, Field(ge=1, le=6)]
    validation: Annotated[float, Field(ge=0.0, lt=1.0)]
    split_seed: int
    allow_missing: bool
    exclude: tuple[str, ...]


class GenerateSettings(_Section):
    """The synthetic dataset. Where data.root is another, nothing depends on it; `sets: []` takes it out of the DAG."""

    sets: Annotated[tuple[Literal["synthetic"], ...], Field(max_length=1)]
    size: Literal["test", "demo", "full"]
    image_width: Annotated[int, Field(ge=160, le=1920, multiple_of=16)]
    seed: Annotated[int, Field(ge=0)]
    device: Literal["cpu", "cuda"]


class PrepareSettings(_Section):
    """Hand-centred square crops, packed once."""

    image_size: Annotated[int, Field(ge=32, multiple_of=32)]
    crop: Literal["clip", "frame"]
    box_margin: Annotated[float, Field(ge=1.0, le=4.0)]
    max_unreadable: Share


class NetworkSettings(_Section):
    """The network of Sec. 3; every row of Tables 1, 3 and 4 is a combination of these."""

    backbone: Literal["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"]
    weights: Annotated[str, Field(min_length=1)]
    stages: Literal[3, 4]
    lateral: bool
    head_channels: Positive
    channels: Positive
    iterations: Annotated[int, Field(ge=1, le=5)]
    share_iterations: bool
    streams: Annotated[tuple[Stream, ...], Field(min_length=1)]
    detach_slow_fast: bool
    multi_scale: bool
    palm: Literal["wrist_and_mcp", "wrist"]
    depth_head: Literal["light", "residual"]
    gesture_layers: Annotated[int, Field(ge=1, le=4)]
    tcn_layers: Annotated[int, Field(ge=1, le=4)]
    tcn_width: Positive
    tcn_grid: Positive

    @model_validator(mode="after")
    def _no_stream_twice(self) -> Self:
        if len(set(self.streams)) != len(self.streams):
            raise _Misfit("a stream stands in the list twice", "streams")
        return self


class LossSettings(_Section):
    """The weights of Eq. 5."""

    heatmap: Weight
    depth: Weight
    gesture: Weight


class AugmentSettings(_Section):
    """Half-widths of uniform draws, one draw a clip."""

    shift: Annotated[float, Field(ge=0.0, lt=0.5)]
    scale: Annotated[float, Field(ge=0.0, lt=0.9)]
    brightness: Share
    contrast: Share
    saturation: Share
    blur: Share


class RuntimeSettings(_Section):
    """Where and in which precision; all but `workers` and `checkpoint_iterations` change the weights' bits."""

    launcher: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
    device: Literal["auto", "cpu", "cuda"]
    precision: Literal["float32", "tf32", "bfloat16"]
    channels_last: bool
    compile: bool
    checkpoint_iterations: bool
    threads: Positive
    workers: Positive
    deterministic: bool

    @model_validator(mode="after")
    def _one_of_them_decides_what_is_computed_again(self) -> Self:
        if self.compile and self.checkpoint_iterations:
            raise _Misfit(
                "compile and checkpoint_iterations are both true; a compiled step has no checkpoints: set one to false",
                "compile",
            )
        return self


class FinetuneSettings(_Section):
    """One optimisation run: Adam, tenfold falls of the rate, batches of clips of K frames (Sec. 4)."""

    seed: Annotated[int, Field(ge=0)]
    epochs: Positive
    clips_per_batch: Positive
    segments: Annotated[int, Field(ge=3)]  # the second-order features of Eq. 4 need three frames
    learning_rate: Rate
    schedule: Literal["plateau", "step"]
    steps_at: StepsAt
    patience: Positive
    stop_below: Weight


class TrainSettings(FinetuneSettings):
    """The collaborative training, with the choice of the epoch that is kept."""

    select: Literal["best", "last"]


class CellSettings(_Section):
    """What trainings that are compared with each other share: fixed steps, one schedule, the last step kept."""

    seeds: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    split: Literal["validation", "test"]
    segments: Annotated[int, Field(ge=3)]
    train_steps: Positive
    learning_rate: Rate
    steps_at: StepsAt
    log_every: Positive
    threads: Positive
    bootstrap: Annotated[int, Field(ge=100)]
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)]

    @model_validator(mode="after")
    def _cells_are_comparable(self) -> Self:
        if len(set(self.seeds)) != len(self.seeds):
            raise _Misfit("a seed stands in the list twice", "seeds")
        for name in type(self).model_fields:
            if name.endswith("_steps") and getattr(self, name) % self.log_every:
                raise _Misfit(f"{getattr(self, name)} is no multiple of log_every {self.log_every}", name)
        return self


class WeakSettings(CellSettings):
    """The label-efficiency curves of Sec. 4.2 (Fig. 4, middle and right): pipelines/weak."""

    ratios: Annotated[tuple[float, ...], Field(min_length=1)]
    further_pose_methods: Annotated[tuple[Literal["teacher"], ...], Field(max_length=1)]
    labelled_clips: Positive
    unlabelled_clips: Positive
    finetune_steps: Positive
    finetune_learning_rate: Rate
    teacher_decay: Annotated[float, Field(ge=0.0, lt=1.0)]
    teacher_confidence: Share

    @field_validator("ratios", mode="before")
    @classmethod
    def _ratios_rise(cls, ratios: object) -> object:
        """DVC names cells by the text of a ratio: 1 and 1.0 would be two cells."""
        if isinstance(ratios, list):
            for ratio in ratios:
                if isinstance(ratio, int):
                    raise ValueError(f"write {float(ratio)}, not {ratio}")
            if all(isinstance(ratio, float) for ratio in ratios):
                check_ratios(ratios)
            return tuple(ratios)
        return ratios


class AblationSettings(CellSettings):
    """The rows of the paper's Tables 1, 3 and 4, ours, and reference systems: pipelines/ablation.

    Each row is trained once for each seed, with all labels of the training videos. What a row is stands in
    `ablation.rows`.
    """

    rows: Annotated[tuple[NetworkRow, ...], Field(min_length=1)]
    crops: Annotated[tuple[Literal["frame"], ...], Field(max_length=1)]
    references: tuple[Literal["lstm_annotated", "colour", "hp", "hp_ac"], ...]
    flow_references: Annotated[tuple[Literal["flow"], ...], Field(max_length=1)]
    pose_references: Annotated[tuple[Literal["lstm_predicted"], ...], Field(max_length=1)]
    clips_per_batch: Positive
    lstm_steps: Positive
    lstm_learning_rate: Rate

    @model_validator(mode="after")
    def _rows_are_there_once(self) -> Self:
        for name in ("rows", "references"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise _Misfit("an entry stands in the list twice", name)
        if self.pose_references and "complete" not in self.rows:
            message = "lstm_predicted reads the poses of the row complete, which rows does not have"
            raise _Misfit(message, "pose_references")
        return self


class LabelSettings(_Section):
    """Whose labels the training may use (Sec. 3.4, 4.2); the others' are withheld."""

    pose: Ratio
    gesture: Ratio
    seed: Annotated[int, Field(ge=0)]
    labelled_share: Annotated[float, Field(gt=0.0, lt=1.0)]

    @model_validator(mode="after")
    def _one_task_is_supervised_weakly(self) -> Self:
        if self.pose < 1.0 and self.gesture < 1.0:
            message = "pose and gesture are both below 1; weak supervision has all labels of one of the tasks"
            raise _Misfit(message, "pose")
        return self


class SearchDimension(_Section):
    """The values of one setting that a study may try: from low to high, both of them included, or of a list."""

    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    choices: tuple[Any, ...] | None = None

    @model_validator(mode="after")
    def _bounds_or_choices(self) -> Self:
        low, high = self.low, self.high
        if self.choices is not None:
            if low is not None or high is not None or self.log:
                raise ValueError("choices stand alone, without low, high and log")
            if len(self.choices) < 2:
                raise ValueError(
                    "choices has to have two entries or more; a value for all trials stands in search.fixed"
                )
            if len({json.dumps(choice) for choice in self.choices}) < len(self.choices):
                raise ValueError("an entry stands in choices twice")
            return self
        if low is None or high is None:
            raise ValueError("write {low: …, high: …}, with log: true where factors count, or {choices: […]}")
        if low >= high:
            raise ValueError(f"low {low:g} is not below high {high:g}")
        if self.log and low <= 0:
            raise ValueError(f"low {low:g} has no logarithm; it has to be above 0")
        return self

    @property
    def ends(self) -> tuple[Any, ...]:
        """Values that are valid only if all are: every choice, or both bounds."""
        return self.choices if self.choices is not None else (self.low, self.high)


class SearchSettings(_Section):
    """An Optuna study of trainings that are scored on the validation videos: `gesturepose search`."""

    space: Annotated[dict[str, SearchDimension], Field(min_length=1)]
    fixed: dict[str, Any]
    objective: Literal["value", "front", "cheapest"]
    accuracy_share: Share
    hold: Share
    trials: Positive
    seed: Annotated[int, Field(ge=0)]
    threads: Positive
    random_trials: Positive
    pruner: Literal["median", "hyperband", "none"]
    unpruned_epochs: Positive
    warm_start: Annotated[int, Field(ge=0)]

    @model_validator(mode="after")
    def _space_and_objective_fit(self) -> Self:
        if both := sorted(set(self.space) & set(self.fixed)):
            raise _Misfit(f"{both[0]} stands in space and in fixed", "fixed", both[0])
        for key in ("labels.pose", "labels.gesture"):
            if key in self.fixed and self.fixed[key] != 1.0 and self._below_one(other := _OTHER_LABELS[key]):
                message = f"{key} is fixed below 1, and {other} has no value of 1: one of the two has to be 1"
                raise _Misfit(message, "fixed", key)
        if self._below_one("labels.pose") and self._below_one("labels.gesture"):
            raise _Misfit(
                "labels.pose and labels.gesture are both searched, and neither has 1.0 among its choices: no trial may "
                "withhold both",
                "space",
                "labels.pose",
            )
        if self.objective == "cheapest" and not {"labels.pose", "labels.gesture"} & set(self.space):
            message = "objective is cheapest, but the space has neither labels.pose nor labels.gesture"
            raise _Misfit(message, "objective")
        return self

    def _below_one(self, key: str) -> bool:
        """Whether the space has `key`, but not the value 1 (a range has it with no probability)."""
        dimension = self.space.get(key)
        return dimension is not None and 1.0 not in (dimension.choices or ())


_OTHER_LABELS = {"labels.pose": "labels.gesture", "labels.gesture": "labels.pose"}


class EvaluateSettings(_Section):
    """Batching and the bootstrap over videos."""

    clips_per_batch: Positive
    bootstrap: Annotated[int, Field(ge=100)]
    confidence: Annotated[float, Field(gt=0.5, lt=1.0)]


class Params(_Section):
    """params.yaml."""

    data: DataSettings
    generate: GenerateSettings
    prepare: PrepareSettings
    network: NetworkSettings
    loss: LossSettings
    augment: AugmentSettings
    runtime: RuntimeSettings
    finetune: FinetuneSettings
    train: TrainSettings
    labels: LabelSettings
    evaluate: EvaluateSettings
    weak: WeakSettings
    ablation: AblationSettings
    search: SearchSettings

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if Path(self.data.root) == Path(SYNTHETIC_ROOT) and not self.generate.sets:
            message = f"it is {SYNTHETIC_ROOT}, which generate.sets: [synthetic] writes, but that is []"
            raise _Misfit(message, "data", "root")
        if self.train.select == "best" and self.data.validation == 0.0:
            message = "it is best, but data.validation is 0: there is nothing to select by; use last"
            raise _Misfit(message, "train", "select")
        for name, section in (("weak", self.weak), ("ablation", self.ablation)):
            if section.split == "validation" and self.data.validation == 0.0:
                message = "it is validation, but data.validation is 0: there is nothing to score"
                raise _Misfit(message, name, "split")
        heatmap_size = self.prepare.image_size // HEATMAP_STRIDE
        if heatmap_size % self.network.tcn_grid:
            message = f"{self.network.tcn_grid} does not divide the heatmaps' {heatmap_size} px"
            raise _Misfit(message, "network", "tcn_grid")
        if unknown := sorted(set(self.ablation.seeds) - set(self.weak.seeds)):
            message = f"it has {unknown[0]} and weak.seeds has not: the rows start from that pipeline's trunks"
            raise _Misfit(message, "ablation", "seeds")
        if self.ablation.crops and self.prepare.crop == "frame":
            message = "it has frame, and so has prepare.crop: the row would be no other; use []"
            raise _Misfit(message, "ablation", "crops")
        for key, dimension in self.search.space.items():
            for value in dimension.ends:
                self._check_value("space", key, value)
        for key, value in self.search.fixed.items():
            self._check_value("fixed", key, value)
        if self.weak.finetune_steps % self.ablation.log_every:
            raise _Misfit(
                f"weak.finetune_steps {self.weak.finetune_steps} is no multiple of {self.ablation.log_every}: rows "
                "without pose labels have these steps more",
                "ablation",
                "log_every",
            )
        return self

    def _check_value(self, part: Literal["space", "fixed"], key: str, value: object) -> None:
        """Refuse what a trial could not have as the setting `key`."""
        section, _, leaf = key.partition(".")
        keys = [f"{name}.{leaf}" for name in TRIAL_SECTIONS for leaf in type(getattr(self, name)).model_fields]
        if key not in keys:
            near = difflib.get_close_matches(key, keys, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            message = f"no setting of a trial, which are in {', '.join(TRIAL_SECTIONS)}{hint}"
            raise _Misfit(message, "search", part, key)
        # The field alone: which values go together is a trial's to say, since other settings change with it.
        field = type(getattr(self, section)).model_fields[leaf]
        alone = create_model("Alone", __config__=ConfigDict(strict=True), value=(field.annotation, field))
        try:
            alone.model_validate_json(json.dumps({"value": value}))
        except ValidationError as error:
            message = f"it cannot be {_short(value)}: {error.errors()[0]['msg']}"
            raise _Misfit(message, "search", part, key) from None


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


def load_params(path: Path = PARAMS_FILE) -> Params:
    """The settings in `path`.

    Raises:
        InputError: no such file, not YAML, a key unknown, missing, twice or ill-typed, an impossible combination.
    """
    return _validated(_read_commented(path), path)


def _validated(tree: CommentedMap, path: Path) -> Params:
    try:
        # JSON mode: strict types, and lists become tuples.
        return Params.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        problems = [
            f"{path}:{line}: {said}" if (line := _line_of(tree, at)) else f"{path}: {said}"
            for at, said in _explained(error, tree).items()
        ]
        raise InputError(
            "\n".join(problems), hint="The keys and their ranges are in src/gesturepose/params.py."
        ) from None
    except TypeError as error:  # a date or another YAML type that JSON does not have
        raise InputError(f"a value has a type that no setting has: {error}", file=path) from None


def with_values(params: Params, values: Mapping[str, Any]) -> Params:
    """`params` with other values for some dotted keys, checked as a whole.

    Raises:
        InputError: the values do not fit together, or one of them does not fit its key.
    """
    tree = params.model_dump(mode="json")
    for key, value in values.items():
        section, _, leaf = key.partition(".")
        tree[section][leaf] = value
    try:
        return Params.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        said = "; ".join(_explained(error, tree).values())
        raise InputError(f"{', '.join(f'{k} {_short(v)}' for k, v in values.items())} do not fit: {said}") from None


def profile_names() -> tuple[str, ...]:
    """The profiles that `apply_profile` knows."""
    folder = resources.files("gesturepose") / "profiles"
    return tuple(sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml")))


def read_profile(name: str) -> dict[str, Any]:
    """The values that profile `name` sets, as nested dictionaries."""
    if name not in profile_names():
        near = difflib.get_close_matches(name, profile_names(), n=1)
        hint = f"Did you mean {near[0]}?" if near else ""
        raise InputError(f"no profile {name!r}; there are {', '.join(profile_names())}", hint=hint)
    text = (resources.files("gesturepose") / "profiles" / f"{name}.yaml").read_text()
    return YAML(typ="safe", pure=True).load(text)


def apply_profile(name: str, path: Path = PARAMS_FILE) -> list[str]:
    """Rewrite `path` with the values of a profile; comments, order and all other values stay.

    Returns:
        One line `key: old → new` for each value that changed.
    """
    return set_values(dict(flatten(read_profile(name))), path)


def set_values(values: Mapping[str, Any], path: Path = PARAMS_FILE) -> list[str]:
    """Rewrite `path` with other values for some dotted keys; comments, order and all other values stay.

    Returns:
        One line `key: old → new` for each value that changed.

    Raises:
        InputError: a key is not there, or the values are refused; the file is as it was.
    """
    tree = _read_commented(path)
    changes: list[str] = []
    for key, value in values.items():
        section, _, leaf = key.partition(".")
        if section not in tree or leaf not in tree[section]:
            raise InputError(f"the key {key} is missing", file=path, hint="Restore it, for example from git.")
        old = tree[section][leaf]
        if old != value:
            changes.append(f"{key}: {_short(old)} → {_short(value)}")
            tree[section][leaf] = _flow(value) if isinstance(value, list) else value
    _validated(tree, path)
    stream = io.StringIO()
    _round_trip().dump(tree, stream)
    temporary = path.with_name(path.name + ".new")
    try:
        temporary.write_text(stream.getvalue())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise InputError(f"cannot be written: {error.strerror}", file=path) from None
    return changes


def flatten(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """`(dotted key, value)` of every leaf; lists are leaves."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _round_trip() -> YAML:
    yaml = YAML(typ="rt")
    yaml.width = 120
    yaml.preserve_quotes = True
    yaml.representer.ignore_aliases = lambda data: True
    return yaml


def _flow(value: list[Any]) -> CommentedSeq:
    sequence = CommentedSeq(value)
    sequence.fa.set_flow_style()
    return sequence


def _read_commented(path: Path) -> CommentedMap:
    try:
        tree = _round_trip().load(path.read_text())
    except FileNotFoundError:
        raise InputError("no such file", file=path, hint="Run from the project's folder.") from None
    except MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise InputError(f"not valid YAML: {error.problem}", file=path, line=line) from None
    if not isinstance(tree, CommentedMap):
        raise InputError("expected sections such as `data:` and `train:`", file=path)
    _check_keys(tree, path)
    return tree


def _check_keys(tree: CommentedMap, path: Path) -> None:
    """Refuse keys that YAML takes for a number, a truth value or nothing."""
    for key, value in tree.items():
        if not isinstance(key, str):
            raise InputError(f"the key {_short(key)} is no name of a setting", file=path, line=tree.lc.key(key)[0] + 1)
        if isinstance(value, CommentedMap):
            _check_keys(value, path)


def _explained(error: ValidationError, tree: Mapping[str, Any]) -> dict[Location, str]:
    """One sentence for each value that pydantic refuses, by where it is."""
    found: dict[Location, str] = {}
    for problem in error.errors():
        at: Location = tuple(problem["loc"])
        if problem["type"] not in ("missing", "extra_forbidden"):
            at = at[: _depth(tree, at)]  # below a value there are the types that it could have had
        if problem["type"] == "value_error" and isinstance(refused := problem["ctx"]["error"], _Misfit):
            at += refused.at
        found.setdefault(at, _explain(problem, [part for part in at if isinstance(part, str)]))
    return found


def _depth(tree: Mapping[str, Any], at: Location) -> int:
    """How many parts of `at` there are, one in the other."""
    node: Any = tree
    for depth, part in enumerate(at):
        inside = part in node if isinstance(node, Mapping) else isinstance(part, int) and isinstance(node, list)
        if not inside:
            return depth
        node = node[part]
    return len(at)


def _explain(problem: Any, keys: Sequence[str]) -> str:
    """One sentence for one of pydantic's findings."""
    key = ".".join(keys)
    if problem["type"] == "extra_forbidden":
        known = _known_keys()
        if key.startswith("search.space."):
            known = [".".join([*keys[:-1], name]) for name in SearchDimension.model_fields]
        near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
        return f"unknown key {key}" + (f"; did you mean {near[0]}?" if near else "")
    if problem["type"] == "missing":
        return f"the key {key} is missing"
    if problem["type"] == "value_error":
        return f"{key + ': ' if key else ''}{problem['ctx']['error']}"
    return f"{key} is {_short(problem['input'])}: {problem['msg'][0].lower()}{problem['msg'][1:]}"


def _line_of(tree: CommentedMap, at: Location) -> int | None:
    line: int | None = None
    node: Any = tree
    for part in at:
        if not isinstance(node, CommentedMap) or part not in node:
            break
        line, node = node.lc.key(part)[0] + 1, node[part]
    return line


def _known_keys() -> list[str]:
    sections = {name: field.annotation for name, field in Params.model_fields.items()}
    leaves = [f"{name}.{leaf}" for name, section in sections.items() for leaf in section.model_fields]  # type: ignore[union-attr]
    return [*sections, *leaves]


def _short(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 100 else f"{text[:99]}…"
