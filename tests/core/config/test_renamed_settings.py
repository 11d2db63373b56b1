"""Files with the names of earlier versions are read as files of today, and hash alike."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import pytest

from coca.core.config.frozen_config import Config, from_dict, load_config, non_default, to_dict
from coca.core.errors import ConfigError
from coca.data.loading.loader import LoaderConfig
from coca.model.coca_config import CoCaConfig, HeadConfig
from coca.tasks.task import TaskConfig
from coca.workflows.training.finetune import HeadChoice


@dataclass(frozen=True, kw_only=True)
class Inner(Config):
    size: int = 1
    mode: Literal["fast", "slow"] = "fast"

    renamed_keys: ClassVar[Mapping[str, str]] = {"extent": "size", "way": "mode"}
    renamed_values: ClassVar[Mapping[str, Mapping[str, str]]] = {"mode": {"quick": "fast"}}


@dataclass(frozen=True, kw_only=True)
class Outer(Config):
    inner: Inner = field(default_factory=Inner)
    many: tuple[Inner, ...] = ()


@pytest.mark.parametrize("written", [{"extent": 3, "way": "quick"}, {"size": 3, "mode": "fast"}])
def test_earlier_and_current_names_are_read_alike_at_every_depth(written: dict[str, Any]) -> None:
    wanted = Outer(inner=Inner(size=3), many=(Inner(size=3),))
    assert load_config(Outer, {"inner": written, "many": [written]}) == wanted
    assert load_config(Outer, overrides=["inner.extent=3", "many=[{extent: 3}]"]) == wanted


def test_an_override_by_the_earlier_name_of_a_setting_in_a_recipe_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"inner: size must be given once, got also extent"):
        load_config(Outer, {"inner": {"size": 3}}, overrides=["inner.extent=4"])


def test_values_are_converted_in_their_field_only() -> None:
    with pytest.raises(ConfigError, match="size must be a whole number, got 'quick'"):
        load_config(Inner, {"size": "quick"})


def test_what_is_written_has_current_names_and_what_is_hashed_the_first() -> None:
    config = Inner(size=3, mode="slow")
    assert to_dict(config) == {"size": 3, "mode": "slow"}
    assert non_default(config) == {"extent": 3, "way": "slow"}
    assert from_dict(Inner, non_default(config), source="x") == config


def test_a_head_that_an_earlier_version_saved_is_the_same_head() -> None:
    saved = {"classes": ["a", "b"], "reads": "words", "pictures": 2, "heads": 8}
    head = HeadConfig(classes=("a", "b"), reads="text", images_per_sample=2)
    assert from_dict(HeadConfig, saved, source="config.json") == head
    # The fingerprint of a model hashes these, so a collection keeps its model.
    assert non_default(CoCaConfig(head=head))["head"] == {
        "classes": ["a", "b"],
        "reads": "words",
        "pictures": 2,
    }


@pytest.mark.parametrize(
    ("kind", "earlier", "current"),
    [
        (LoaderConfig, {"pictures": 2}, {"images_per_sample": 2}),
        (
            HeadChoice,
            {"reads": "words", "pictures": 2},
            {"reads": "text", "images_per_sample": 2},
        ),
        (TaskConfig, {"answers": "words"}, {"answers": "generation"}),
    ],
)
def test_recipes_of_earlier_versions_are_read(
    kind: type, earlier: dict[str, Any], current: dict[str, Any]
) -> None:
    shared: dict[str, Any] = {}
    if kind is LoaderConfig:
        shared = {"batch_size": 2}
    elif kind is TaskConfig:
        shared = {"task": "vqa", "data": {"kind": "folder", "path": "x"}}
    assert load_config(kind, {**shared, **earlier}) == load_config(kind, {**shared, **current})
