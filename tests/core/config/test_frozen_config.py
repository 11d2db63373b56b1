"""Ranges of settings are declared by the types of fields, and checked in recipes and in code."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from coca.core.config.fields import show
from coca.core.config.frozen_config import Config, digest, from_dict, load_config, to_dict
from coca.core.errors import ArgumentError, ConfigError


class Part(Config):
    path: Path
    weight: float = 1.0


class Ranged(Config):
    steps: PositiveInt = 1
    decay: Annotated[float, Field(ge=0, lt=1)] | None = None
    warmup: NonNegativeInt | Annotated[float, Field(ge=0, lt=1)] = 0.5
    betas: tuple[Annotated[float, Field(ge=0, lt=1)], ...] = ()
    channels: Annotated[int, Field(gt=0, multiple_of=32)] = 32
    names: Annotated[tuple[str, ...], Field(min_length=1)] = ("a",)
    kind: Literal["a", "b"] = "a"
    sources: Annotated[tuple[Part, ...], Field(min_length=1)] = (Part(path=Path("a")),)
    spare: Annotated[dict[str, Part], Field(min_length=1)] | None = None
    folder: Path = Path("not checked")

    @model_validator(mode="after")
    def _check_rules(self) -> "Ranged":
        if self.steps == 1000 // self.steps:
            raise ConfigError("a rule between fields")
        return self


class RangedRun(Config):
    part: Ranged = Field(default_factory=Ranged)


OUTSIDE: list[tuple[str, Any, str]] = [
    ("steps", 0, "a whole number above 0"),
    ("steps", True, "a whole number above 0"),
    ("decay", 1, "a number in [0, 1) or null"),
    ("warmup", -1, "a whole number of at least 0 or a number in [0, 1)"),
    ("betas", (0.5, 1.0), "a list, each a number in [0, 1)"),
    ("channels", 48, "a whole number above 0 that is a multiple of 32"),
    ("names", (), "a list of at least 1, each a text"),
    ("kind", "c", "one of 'a', 'b'"),
    ("sources", (), "a list of at least 1, each a section with path, weight"),
    ("spare", {}, "a mapping of at least 1, each value a section with path, weight or null"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), OUTSIDE)
def test_a_value_out_of_range_is_an_error_in_code_and_in_a_recipe(
    name: str, value: Any, allowed: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        Ranged(**{name: value})
    assert str(caught.value) == f"{name} must be {allowed}, got {show(value)}"
    with pytest.raises(ConfigError) as caught:
        load_config(RangedRun, {"part": {name: value}})
    given = show(to_dict(value))
    assert str(caught.value) == f"part.{name} must be {allowed}, got {given} (given in code)"


def test_ranges_are_checked_before_rules_and_all_at_once() -> None:
    with pytest.raises(ConfigError, match=r"^steps must be .*, got 0; decay must be .*, got 2$"):
        Ranged(steps=0, decay=2)
    with pytest.raises(ConfigError) as caught:
        load_config(RangedRun, {"part": {"steps": 0, "kind": "c"}}, overrides=["part.decay=2"])
    assert len(str(caught.value).splitlines()) == 3


def test_a_class_may_raise_its_own_error() -> None:
    class Argument(Config):
        range_error = ArgumentError
        k: PositiveInt = 1

    with pytest.raises(ArgumentError, match=r"^k must be a whole number above 0, got 0$"):
        Argument(k=0)


class ImageConfig(Config):
    size: int = 224
    patch: int = 16

    @model_validator(mode="after")
    def _check_rules(self) -> "ImageConfig":
        if self.size % self.patch:
            raise ConfigError(f"patch {self.patch} does not divide size {self.size}")
        return self

    @classmethod
    def presets(cls) -> dict[str, Self]:
        return {"tiny": cls(size=32, patch=8), "base": cls()}


class ModelConfig(Config):
    image: ImageConfig
    width: int
    extra: ImageConfig | None = None

    @classmethod
    def presets(cls) -> dict[str, Self]:
        return {"tiny": cls(image=ImageConfig(size=16, patch=4), width=8)}


class SourceConfig(Config):
    path: Path
    weight: float = 1.0

    @model_validator(mode="after")
    def _check_rules(self) -> "SourceConfig":
        if self.weight <= 0:
            raise ValueError(f"weight {self.weight} should be above 0")
        return self


class OptimizerConfig(Config):
    name: Literal["adamw", "adafactor"] = "adamw"
    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    warmup: int | float = 0.01


class RunConfig(Config):
    model: ModelConfig
    image: ImageConfig = ImageConfig(size=64)
    optimizer: OptimizerConfig = OptimizerConfig()
    sources: tuple[SourceConfig, ...] = ()
    tests: dict[str, SourceConfig] = Field(default_factory=dict)
    templates: list[str] = Field(default_factory=lambda: ["a photo of {}"])
    weights: dict[str, float] = Field(default_factory=dict)
    resume: bool = False
    folder: Path | None = None
    note: str = ""


Layer = Path | Mapping[str, Any]
TINY: Mapping[str, Any] = {"model": "tiny"}


def run(*layers: Layer, overrides: Sequence[str] = ()) -> RunConfig:
    return load_config(RunConfig, TINY, *layers, overrides=overrides)


def faults_of(*layers: Layer, overrides: Sequence[str] = ()) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        run(*layers, overrides=overrides)
    return str(caught.value).splitlines()


# --- what a right configuration becomes ---


def test_files_mappings_and_overrides_are_merged_in_order(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("optimizer: {lr: 1, name: adafactor}\nnote: a\n")
    (tmp_path / "b.yaml").write_text("optimizer: {lr: 2}\n")
    config = run(tmp_path / "a.yaml", tmp_path / "b.yaml", {"note": "b"}, overrides=["note=c"])
    assert config.optimizer == OptimizerConfig(lr=2.0, name="adafactor")
    assert config.note == "c"


def test_values_have_the_types_of_their_fields() -> None:
    config = run(
        {
            "optimizer": {"lr": 1, "betas": [1, 0.5]},
            "sources": [{"path": "a"}, {"path": "b", "weight": 2}],
            "tests": {"val": {"path": "c"}},
            "weights": {"x": 1},
            "folder": "runs/a",
        }
    )
    assert isinstance(config.optimizer.lr, float)
    assert config.optimizer.betas == (1.0, 0.5)
    assert config.sources == (
        SourceConfig(path=Path("a")),
        SourceConfig(path=Path("b"), weight=2.0),
    )
    assert config.tests == {"val": SourceConfig(path=Path("c"))}
    assert isinstance(config.weights["x"], float)
    assert config.folder == Path("runs/a")


def test_a_union_keeps_a_whole_number_whole() -> None:
    assert isinstance(run(overrides=["optimizer.warmup=100"]).optimizer.warmup, int)
    assert isinstance(run(overrides=["optimizer.warmup=0.1"]).optimizer.warmup, float)


def test_the_given_layers_stay_as_they_are() -> None:
    layer = {"optimizer": {"lr": 1}, "sources": [{"path": "a"}]}
    before = json.dumps(layer)
    run(layer, overrides=["optimizer.lr=2", "sources.0.path=b"])
    assert json.dumps(layer) == before


def test_a_section_starts_from_the_default_of_its_field_and_not_of_its_class() -> None:
    assert run({"image": {"patch": 8}}).image == ImageConfig(size=64, patch=8)


def test_null_is_a_value_only_where_the_type_has_it() -> None:
    assert run({"model": {"preset": "tiny", "extra": None}, "folder": None}).folder is None
    assert faults_of({"note": None}) == ["note must be a text, got null (given in code)"]


def test_an_optional_section_is_made_when_it_is_given() -> None:
    assert run(overrides=["model.extra.size=32"]).model.extra == ImageConfig(size=32)
    assert run().model.extra is None


# --- presets ---


def test_an_override_changes_a_preset_given_as_text() -> None:
    assert run({"image": "tiny"}, overrides=["image.size=8"]).image == ImageConfig(size=8, patch=8)


def test_a_preset_is_below_the_keys_of_every_layer() -> None:
    config = run({"image": {"patch": 32}}, overrides=["image.preset=tiny"])
    assert config.image == ImageConfig(size=32, patch=32)


def test_a_preset_inside_a_preset_replaces_that_part_only() -> None:
    config = run({"model": {"image": "tiny"}})
    assert config.model == ModelConfig(image=ImageConfig(size=32, patch=8), width=8)


def test_a_class_with_presets_may_be_the_whole() -> None:
    assert load_config(ImageConfig, overrides=["preset=tiny"]) == ImageConfig(size=32, patch=8)


def test_an_unknown_preset_is_reported_with_the_nearest() -> None:
    assert faults_of({"image": "tinny"}) == [
        "image.preset = 'tinny' is unknown; did you mean 'tiny'? (given in code)"
    ]
    with pytest.raises(ConfigError, match=r"^preset = 7 is unknown; known: base, tiny$"):
        load_config(ImageConfig, overrides=["preset=7"])


def test_an_unknown_preset_hides_the_faults_of_its_section_only() -> None:
    # Whether patch 3 divides the size cannot be known here.
    lines = faults_of({"model": {"preset": "huge", "image": {"patch": 3}}, "note": 3})
    assert [line.partition(" (")[0] for line in lines] == [
        "model.preset = 'huge' is unknown; known: tiny",
        "note must be a text, got 3",
    ]


def test_a_preset_of_a_section_without_presets_is_unknown() -> None:
    (line,) = faults_of({"optimizer": {"preset": "fast"}})
    assert line.startswith("optimizer.preset = 'fast' is unknown; known: betas, lr,")
    (line,) = faults_of({"optimizer": "fast"}, overrides=["optimizer.lr=1"])
    assert line.startswith("optimizer.preset = 'fast' is unknown; known: betas, lr,")


# --- faults ---


def test_all_errors_are_reported_at_once_a_line_each() -> None:
    lines = faults_of(
        {"optimizer": {"name": "adam", "lr": "fast", "decay": 1}, "image": {"size": 17}},
        overrides=["sources=[{path: a, weight: 0}, {pth: b}]", "image.size=9"],
    )
    assert lines == [
        "image: patch 16 does not divide size 9",
        "optimizer.name must be one of 'adamw', 'adafactor', got 'adam' (given in code)",
        "optimizer.lr must be a number, got 'fast' (given in code)",
        "optimizer.decay = 1 is unknown; known: betas, lr, name, warmup (given in code)",
        "sources.0: weight 0.0 should be above 0",
        "sources.1.path is missing; it must be a path (override)",
        "sources.1.pth = 'b' is unknown; did you mean 'path'? (override)",
    ]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("resume=1", "resume must be true or false, got 1"),
        ("model.width=true", "model.width must be a whole number, got true"),
        ("optimizer.lr=.nan", "optimizer.lr must be a number, got NaN"),
        ("optimizer.lr=.inf", "optimizer.lr must be a number, got Infinity"),
        ("optimizer.betas=[1]", "optimizer.betas must be a list of 2: a number, a number, got [1]"),
        ("optimizer=3", "optimizer must be a section with name, lr, betas, warmup, got 3"),
        ("note=3", "note must be a text, got 3"),
        ("folder=3", "folder must be a path or null, got 3"),
        ("templates=a", "templates must be a list, each a text, got 'a'"),
        ("sources=[a]", "sources.0 must be a section with path, weight, got 'a'"),
        (
            "sources.3.path=a",
            'sources must be a list, each a section with path, weight, got {"3": {',
        ),
        ("tests=[a]", 'tests must be a mapping, each value a section with path, weight, got ["a"]'),
        ("tests.val=a", "tests.val must be a section with path, weight, got 'a'"),
        ("tests.val={}", "tests.val.path is missing; it must be a path"),
        ("weights.x=a", 'weights must be a mapping, each value a number, got {"x": "a"}'),
        ("model.extra=7", "model.extra must be a section with size, patch, got 7"),
    ],
)
def test_a_wrong_value_is_reported_with_the_expected_type(override: str, sentence: str) -> None:
    (line,) = faults_of(overrides=[override])
    assert line.startswith(sentence)
    assert line.endswith(" (override)")


def test_a_fault_names_the_layer_that_gave_the_value(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("optimizer: {lr: x, name: y}\nsources: [{path: 1}]\n")
    (tmp_path / "b.yaml").write_text("optimizer: {lr: z}\n")
    lines = faults_of(tmp_path / "a.yaml", tmp_path / "b.yaml")
    assert [line.rpartition(" (")[2] for line in lines] == [
        f"in {tmp_path / 'a.yaml'})",
        f"in {tmp_path / 'b.yaml'})",
        f"in {tmp_path / 'a.yaml'})",
    ]


def test_a_key_of_several_sections_is_reported_with_the_nearest_path() -> None:
    sizes = faults_of(overrides=["size=1"])[0]
    assert "did you mean 'image.size' or 'model.image.size' or 'model.extra.size'?" in sizes
    nearest = faults_of(overrides=["model.size=1"])[0]
    assert "did you mean 'model.image.size' or " in nearest


def test_unreadable_layers_are_reported_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- 1\n")
    lines = faults_of(
        tmp_path / "none.yaml", tmp_path / "list.yaml", overrides=["bad", "notte=1", "note=[1"]
    )
    assert len(lines) == 4
    assert "none.yaml cannot be read" in lines[0]
    assert "list.yaml contains a list" in lines[1]
    assert "'bad' should look like section.field=value" in lines[2]
    assert "'note=[1' has no closing bracket: quote an override with spaces" in lines[3]


def test_rules_between_sections_are_reported_without_a_key() -> None:
    with pytest.raises(ConfigError, match=r"^patch 16 does not divide size 17$"):
        load_config(ImageConfig, {"size": 17})


def test_a_mistake_in_the_code_of_a_rule_is_not_blamed_on_the_user() -> None:
    class Faulty(Config):
        a: int = 1

        @model_validator(mode="after")
        def _check_rules(self) -> "Faulty":
            raise AttributeError("a bug")

    with pytest.raises(AttributeError, match="a bug"):
        load_config(Faulty)


@given(st.dictionaries(st.text(max_size=8), st.none() | st.integers() | st.text(), max_size=4))
def test_any_mapping_gives_a_configuration_or_one_clear_error(mapping: dict[str, Any]) -> None:
    # Any other error would reach a user as a traceback.
    with suppress(ConfigError):
        load_config(RunConfig, TINY, mapping, {"optimizer": mapping})


# --- there and back ---

configs = st.builds(
    RunConfig,
    model=st.builds(ModelConfig, image=st.just(ImageConfig()), width=st.integers()),
    optimizer=st.builds(OptimizerConfig, lr=st.floats(allow_nan=False, allow_infinity=False)),
    sources=st.lists(
        st.builds(SourceConfig, path=st.just(Path("a/b")), weight=st.floats(0.1, 1e300)),
        max_size=3,
    ).map(tuple),
    weights=st.dictionaries(
        st.text(), st.floats(allow_nan=False, allow_infinity=False), max_size=3
    ),
    folder=st.none() | st.just(Path("c")),
    note=st.text(),
)


@given(configs)
def test_a_written_configuration_is_read_as_it_was(config: RunConfig) -> None:
    tree = json.loads(json.dumps(to_dict(config)))
    assert from_dict(RunConfig, tree, source="config.json") == config


@given(configs, configs)
def test_digests_are_equal_only_for_equal_configurations(one: RunConfig, other: RunConfig) -> None:
    assert (digest(one) == digest(other)) == (to_dict(one) == to_dict(other))
    assert digest(one) == digest(one.replace())


def test_a_digest_is_short_and_does_not_change_between_versions() -> None:
    # Indexes and reports contain digests, so another value here means that they go stale.
    text = '{"betas": [0.9, 0.95], "lr": 0.001, "name": "adamw", "warmup": 0.01}'
    assert digest(OptimizerConfig()) == hashlib.sha256(text.encode()).hexdigest()[:16]


def test_the_json_schema_of_a_section_with_kinds_has_each_kind() -> None:
    class Shape(Config):
        kind: str

        @classmethod
        def kinds(cls) -> dict[str, type["Shape"]]:
            return {"square": Square}

    class Square(Shape):
        kind: str = "square"
        width: PositiveInt = 1
        """Width in pixels."""

    class Drawing(Config):
        shape: Shape

    schema = Drawing.model_json_schema()
    width = {"description": "Width in pixels.", "exclusiveMinimum": 0}.items()
    (square,) = schema["$defs"]["Shape"]["anyOf"]
    assert square["properties"]["width"].items() >= width
    assert load_config(Drawing, {"shape": {"kind": "square"}}).shape == Square()
