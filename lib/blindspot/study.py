"""The study file: one YAML file says all of a study, and is checked before anything runs.

A study is data, so that the difference of two files is the experiment. Field names are those of transformers,
peft and bitsandbytes where these have one. Every mistake (an unknown key, a wrong type, a value that can't be)
is reported with its key, the value given and what is allowed.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from blindspot.data import LABELS
from blindspot.study_data import ROOT, Count, Data, Positive, Section

STUDIES_FOLDER = ROOT / "parameters"

Label = Literal["entailment", "neutral", "contradiction"]
Heuristic = Literal["lexical_overlap", "subsequence", "constituent"]
Detector = Literal["published", "token_aligned"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=60)]
ModelStage = Literal[
    "20_train_task_model",
    "30_train_generator",
    "40_generate_examples",
    "50_audit_synthetic_data",
    "70_augment_task_model",
    "80_evaluate",
]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]
Margin = Annotated[float, Field(gt=0, lt=1)]


class StudyError(ValueError):
    """A study file, an override or a notebook parameter that can't be used; the message says why."""


class BaseModelSettings(Section):
    """The pretrained causal LM: 'sandbox', a hub id with its revision, a folder, or a .gguf file."""

    name: str
    revision: str | None = None
    quantization: Literal["none", "nf4"]
    compute_dtype: Literal["float32", "bfloat16"]
    max_length: Positive

    @model_validator(mode="after")
    def check_revision(self) -> BaseModelSettings:
        is_local = self.name == "sandbox" or self.name.endswith(".gguf") or Path(ROOT, self.name).is_dir()
        if not is_local and self.name.count("/") == 1 and not self.revision:
            raise ValueError(f"the hub id {self.name!r} needs a 'revision': a commit of its repository, or 'main'")
        return self


class Lora(Section):
    r: Positive
    lora_alpha: Rate
    lora_dropout: Annotated[float, Field(ge=0, lt=1)]
    target_modules: Annotated[
        list[Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]],
        Field(min_length=1),
    ]


class Training(Section):
    """One fine-tuning run, in the names of `transformers.TrainingArguments`."""

    learning_rate: Rate
    per_device_train_batch_size: Positive
    num_train_epochs: Positive = 1
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    warmup_steps: Share
    lr_scheduler_type: Literal["cosine", "constant_with_warmup"] = "cosine"
    max_grad_norm: Rate
    train_sampling_strategy: Literal["group_by_length", "random"] = "group_by_length"


class TaskModel(Section):
    starting_sizes: Annotated[list[Count], Field(min_length=1)]
    pooling: Literal["last_token", "as_published"] = "last_token"
    training: Training

    @model_validator(mode="after")
    def check_sizes(self) -> TaskModel:
        if self.starting_sizes != sorted(set(self.starting_sizes)):
            raise ValueError(f"starting_sizes must rise without repeats; got {self.starting_sizes}")
        return self


class Generator(Section):
    """G, and its further generations: generation k is trained on what generation k - 1 wrote, from the base anew."""

    seed: Count
    training_size: Positive | None = None
    generations: Count = 0
    retraining_pairs_per_label: Positive | None = None
    modules_to_save: list[Literal["embed_tokens", "lm_head"]]
    training: Training

    @model_validator(mode="after")
    def check_generations(self) -> Generator:
        if self.generations and self.retraining_pairs_per_label is None:
            raise ValueError(
                f"generations is {self.generations}, which needs the key 'retraining_pairs_per_label': "
                "how many pairs of each label a generation is trained on"
            )
        if self.retraining_pairs_per_label and not self.generations:
            raise ValueError("retraining_pairs_per_label needs generations above 0; raise it, or drop the key")
        return self


class Generation(Section):
    """Sampling, all of it explicit: nothing is taken from a model's own generation config."""

    seed: Count
    examples_per_label: dict[Label, Positive]
    shard_size: Positive
    batch_size: Positive
    max_new_tokens: Positive
    temperature: Rate
    top_p: Annotated[float, Field(gt=0, le=1)]
    top_k: Count

    @model_validator(mode="after")
    def check_labels(self) -> Generation:
        missing = [label for label in LABELS if label not in self.examples_per_label]
        if missing:
            raise ValueError(f"examples_per_label lacks {missing}; it needs {list(LABELS)}")
        return self

    def shards(self, label: str) -> int:
        """Number of shards that hold the examples of one label."""
        return -(-self.examples_per_label[label] // self.shard_size)  # type: ignore[index]


class TrainingKind(Section):
    """A way to put a training set together: the share of synthetic pairs, the generation of G that wrote them, and
    the share (dose) of pairs that a heuristic biases."""

    name: Name
    synthetic_fraction: Share
    biased_by: Heuristic | None = None
    dose: Share = 1.0
    generation: Count = 0

    @model_validator(mode="after")
    def check_meaning(self) -> TrainingKind:
        if self.dose != 1 and self.biased_by is None:
            raise ValueError(f"dose is {self.dose}, which needs the key 'biased_by': the heuristic that biases pairs")
        if self.generation and self.synthetic_fraction == 0:
            raise ValueError(f"generation is {self.generation}, but synthetic_fraction is 0: no pair of G's is drawn")
        return self


class TrainingSets(Section):
    kinds: Annotated[list[TrainingKind], Field(min_length=1)]
    pairs_per_label: Annotated[list[Positive], Field(min_length=1)]
    overlap_detector: Detector
    deduplicate_synthetic: bool

    @model_validator(mode="after")
    def check_names(self) -> TrainingSets:
        names = [kind.name for kind in self.kinds]
        if len(set(names)) < len(names) or "none" in names:
            raise ValueError(f"the kinds' names must differ and not be 'none'; got {names}")
        if self.pairs_per_label != sorted(set(self.pairs_per_label)):
            raise ValueError(f"pairs_per_label must rise without repeats; got {self.pairs_per_label}")
        return self

    def names(self) -> list[str]:
        """Every set of the study, `<kind>-<total size>`, kinds first."""
        return [f"{kind.name}-{len(LABELS) * n}" for kind in self.kinds for n in self.pairs_per_label]

    def generations(self) -> list[int]:
        """The generations of G whose pairs the kinds draw from, rising."""
        return sorted({kind.generation for kind in self.kinds})


class Augmentation(Section):
    """max_stacked: how many runs train side by side at most; 'auto' for as many as free memory holds."""

    training: Training
    max_stacked: int | Literal["auto"]

    @field_validator("max_stacked", mode="before")
    @classmethod
    def check_max_stacked(cls, value: Any) -> Any:
        if value == "auto" or (type(value) is int and value >= 1):
            return value
        raise ValueError("expected 'auto', or a whole number greater than or equal to 1")


class Evaluation(Section):
    """compute_dtype: in bfloat16 a logit depends on its batch by more than an evaluation lets pass."""

    batch_size: Positive
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    label_collapse: Literal["argmax", "summed_probability"] = "argmax"


class Analysis(Section):
    """What counts as small, in accuracy: a difference under `smallest_effect` does not matter (equivalence tests it),
    a blind-spot accuracy under `near_zero` has gone to zero."""

    smallest_effect: Margin
    near_zero: Margin


class Resources(Section):
    """What one job takes, for the grid's scheduler."""

    threads: Positive
    model_memory_mb: Positive
    data_memory_mb: Positive
    gpus: Count = 0


class ModelShape(Section):
    """A Llama's shape in the names of its config."""

    hidden_size: Positive
    intermediate_size: Positive
    num_hidden_layers: Positive
    num_attention_heads: Positive
    num_key_value_heads: Positive
    vocab_size: Positive


class Planning(Section):
    """What `make plan` assumes where no run has been measured; a missing value leaves its estimates unknown.

    rates: pairs (or rows) a second, by stage. sustained_tflops: by the dtype that is computed in. model: the base
    model's shape, where its config is not on this machine.
    """

    rates: dict[ModelStage, Rate] = Field(default_factory=dict)
    sustained_tflops: dict[Literal["float32", "bfloat16"], Rate] = Field(default_factory=dict)
    tokens_per_pair: Rate | None = None
    model: ModelShape | None = None


class Study(Section):
    """One whole study. Read with `load_study`."""

    name: Name
    description: str
    seeds: Annotated[list[Count], Field(min_length=1)]
    data: Data
    base_model: BaseModelSettings
    lora: Lora
    task_model: TaskModel
    generator: Generator
    generation: Generation
    training_sets: TrainingSets
    augmentation: Augmentation
    evaluation: Evaluation
    analysis: Analysis
    resources: Resources
    planning: Planning = Planning()

    @model_validator(mode="after")
    def check_supply(self) -> Study:
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must not repeat; got {self.seeds}")
        supply = self.data.expected_counts.get("train")
        if supply is None and self.data.source == "sandbox" and self.data.sandbox is not None:
            supply = self.data.sandbox.train_pairs - len(LABELS) * self.data.held_out_per_label
        wanted = {
            "task_model.starting_sizes": max(self.task_model.starting_sizes),
            "generator.training_size": self.generator.training_size or 0,
        }
        if any(kind.synthetic_fraction < 1 for kind in self.training_sets.kinds):
            wanted["training_sets.pairs_per_label x 3"] = len(LABELS) * max(self.training_sets.pairs_per_label)
        for key, size in wanted.items():
            if supply is not None and size > supply:
                raise ValueError(f"{key} asks for {size:,} pairs; the training data holds {supply:,}")
        per_label = max(self.training_sets.pairs_per_label)
        for label, generated in self.generation.examples_per_label.items():
            if per_label > generated and any(k.synthetic_fraction == 1 for k in self.training_sets.kinds):
                raise ValueError(
                    f"training_sets.pairs_per_label asks for {per_label:,} synthetic pairs a label; "
                    f"generation.examples_per_label.{label} makes {generated:,}"
                )
            again = self.generator.retraining_pairs_per_label or 0
            if again > generated:
                raise ValueError(
                    f"generator.retraining_pairs_per_label asks for {again:,} pairs a label; "
                    f"generation.examples_per_label.{label} makes {generated:,}"
                )
        if self.base_model.name == "sandbox" and self.data.source != "sandbox":
            raise ValueError("base_model.name 'sandbox' knows the sandbox's words only; it needs data.source 'sandbox'")
        return self

    @model_validator(mode="after")
    def check_kinds(self) -> Study:
        for place, kind in enumerate(self.training_sets.kinds):
            key = f"training_sets.kinds.{place} ({kind.name})"
            if kind.generation > self.generator.generations:
                raise ValueError(
                    f"{key}: generation is {kind.generation}, but generator.generations is "
                    f"{self.generator.generations}; expected at most that, or a larger generator.generations"
                )
            if kind.biased_by == "constituent" and kind.dose > 0 and self.data.source != "sandbox":
                raise ValueError(
                    f"{key}: biased_by 'constituent' needs a parse of every premise, and only the sandbox has a parser "
                    f"(data.source is {self.data.source!r}); expected 'lexical_overlap' or 'subsequence'"
                )
        return self

    def switches(self) -> dict[str, str | bool]:
        """The choices in which the paper's text, its code and good practice differ: stored with every result."""
        return {
            "pooling": self.task_model.pooling,
            "overlap_detector": self.training_sets.overlap_detector,
            "deduplicate_synthetic": self.training_sets.deduplicate_synthetic,
            "label_collapse": self.evaluation.label_collapse,
        }


def list_studies() -> list[str]:
    """Names of the studies that ship with the project."""
    return sorted(path.stem for path in STUDIES_FOLDER.glob("*.yaml"))


def load_study(study: str, overrides: dict[str, Any] | str | None = None) -> Study:
    """Read `parameters/<study>.yaml`, or the file at a path that ends in .yaml, apply overrides, and check it all.

    overrides: a mapping, or its YAML text, whose keys are dotted ('task_model.starting_sizes') or nested. A study
    with overrides is another study: it takes the name that the overrides give, else the name with a short hash.
    Raises StudyError.
    """
    path = ROOT / study if study.endswith((".yaml", ".yml")) else STUDIES_FOLDER / f"{study}.yaml"
    if not path.is_file():
        near = difflib.get_close_matches(study, list_studies(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise StudyError(f"no study {study!r}: expected one of {', '.join(list_studies())}, or a path to a .yaml{hint}")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise StudyError(f"{path.name} is not YAML: {error}") from error
    if not isinstance(values, dict):
        raise StudyError(f"{path.name} holds {type(values).__name__}; expected a mapping of the study's sections")
    changes = parse_overrides(overrides)
    return check_study(apply_overrides(values, changes), source=path.name)


def read_overrides(overrides: str) -> str:
    """Overrides given on the command line: YAML as it is; a path to a .yaml file as what the file says, as JSON.

    The path is relative to the project, or to where the command was typed. Raises StudyError for no such file.
    """
    if not overrides.strip().endswith((".yaml", ".yml")):
        return overrides
    paths = [ROOT / overrides.strip(), Path(overrides.strip())]
    found = next((path for path in paths if path.is_file()), None)
    if found is None:
        raise StudyError(f"no file of overrides {overrides.strip()!r}; expected YAML such as {{lora.r: 8}}, or a file")
    return json.dumps(parse_overrides(found.read_text(encoding="utf-8")))


def parse_overrides(overrides: dict[str, Any] | str | None) -> dict[str, Any]:
    """Overrides as a mapping. Text is read as YAML. Raises StudyError for anything else."""
    try:
        values = yaml.safe_load(overrides) if isinstance(overrides, str) else overrides
    except yaml.YAMLError as error:
        raise StudyError(f"overrides are not YAML: {error}") from error
    if values and not isinstance(values, dict):
        raise StudyError(f"overrides are {values!r}; expected a mapping such as {{seeds: [1], lora.r: 8}}")
    return values or {}


def apply_overrides(values: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """A copy of the study's values with the changes merged in; a dotted key reaches into a section."""
    if not changes:
        return values
    merged: dict[str, Any] = json.loads(json.dumps(values, default=str))
    for key, value in changes.items():
        merge_value(merged, str(key).split("."), value, str(key))
    if "name" not in changes:
        digest = hashlib.sha256(json.dumps(changes, sort_keys=True, default=str).encode()).hexdigest()[:8]
        merged["name"] = f"{merged.get('name')}-{digest}"
    return merged


def merge_value(section: dict[str, Any], path: list[str], value: Any, key: str) -> None:
    """Set one value in nested sections; mappings merge key by key, an empty one empties, all else replaces."""
    head, rest = path[0], path[1:]
    if rest:
        inner = section.setdefault(head, {})
        if not isinstance(inner, dict):
            raise StudyError(f"override {key!r}: {head!r} is {inner!r}, not a section; it has no key {rest[0]!r}")
        merge_value(inner, rest, value, key)
    elif value and isinstance(value, dict) and isinstance(section.get(head), dict):
        for inner_key, inner_value in value.items():
            merge_value(section[head], str(inner_key).split("."), inner_value, f"{key}.{inner_key}")
    else:
        section[head] = value


def check_study(values: dict[str, Any], *, source: str) -> Study:
    """Validate a study's values. Raises StudyError that lists every mistake: key, value given, what is allowed."""
    try:
        return Study.model_validate(values)
    except ValidationError as error:
        lines = [describe_mistake(item) for item in error.errors()]
        raise StudyError(f"{source}: {len(lines)} mistake(s)\n" + "\n".join(f"  {line}" for line in lines)) from None


def describe_mistake(item: Any) -> str:
    """One pydantic error as 'key: given ...; what is allowed'."""
    key = ".".join(str(part) for part in item["loc"]) or "the study"
    if item["type"] == "extra_forbidden":
        allowed = section_keys(item["loc"][:-1])
        near = difflib.get_close_matches(str(item["loc"][-1]), allowed, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"{key}: unknown key; allowed here: {', '.join(allowed)}{hint}"
    if item["type"] == "missing":
        return f"{key}: missing; every study gives it"
    given = item["input"]
    number_as_text = isinstance(given, str) and "e" in given and item["type"].startswith(("float", "int"))
    hint = " (YAML reads 2e-4 as text: write 2.0e-4)" if number_as_text else ""
    shown = "" if isinstance(given, dict) else f" given {given!r};"
    return f"{key}:{shown} {item['msg'].removeprefix('Value error, ')}{hint}"


def section_keys(location: tuple[Any, ...]) -> list[str]:
    """The keys that a section of the study allows."""
    model: Any = Study
    for part in location:
        if isinstance(part, str) and hasattr(model, "model_fields") and part in model.model_fields:
            model = find_section(model.model_fields[part].annotation)
    return list(getattr(model, "model_fields", {}))


def find_section(annotation: Any) -> Any:
    """The Section class inside an annotation such as `list[TrainingKind]` or `SandboxData | None`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    return next((found for arg in get_args(annotation) if (found := find_section(arg)) is not None), None)


def executed_folder() -> Path:
    """Where runs are written: `executed/` of the project, or the folder that BLINDSPOT_EXECUTED names."""
    return Path(os.environ.get("BLINDSPOT_EXECUTED", ROOT / "executed")).absolute()
