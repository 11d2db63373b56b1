import pickle

import pytest

from coca.core import errors
from coca.core.errors import (
    CocaError,
    ConfigError,
    DataError,
    MissingExtraError,
    ModelError,
    SearchError,
    StorageError,
    did_you_mean,
)


def every_error() -> list[CocaError]:
    return [
        ConfigError("a"),
        DataError("an image ends early", reason="truncated"),
        ModelError("a"),
        SearchError("a"),
        StorageError("a"),
        MissingExtraError("pymilvus", "search"),
    ]


def test_the_list_below_holds_every_error() -> None:
    # The service has an error of its own, which carries a status.
    here = {it for it in CocaError.__subclasses__() if it.__module__ == CocaError.__module__}
    assert {type(error) for error in every_error()} == here


def test_the_error_tree_names_every_error() -> None:
    for error in every_error():
        assert f"+-- {type(error).__name__} " in (errors.__doc__ or "")


def test_a_message_with_a_name_that_is_not_utf8_can_be_encoded() -> None:
    name = b"\xe9tude.tar".decode("utf-8", "surrogateescape")
    assert str(DataError(f"{name} is truncated")) == "\\udce9tude.tar is truncated"


@pytest.mark.parametrize("error", every_error(), ids=lambda error: type(error).__name__)
def test_an_error_survives_the_way_out_of_a_worker_process(error: CocaError) -> None:
    arrived = pickle.loads(pickle.dumps(error))
    assert type(arrived) is type(error)
    assert str(arrived) == str(error)
    assert vars(arrived) == vars(error)


def test_the_nearest_name_is_proposed() -> None:
    assert did_you_mean("adamm", ["adafactor", "adamw"]) == "did you mean 'adamw'?"


def test_without_a_near_name_all_are_listed() -> None:
    assert did_you_mean("zzz", ["b", "a"]) == "known: a, b"
    assert did_you_mean("zzz", []) == "none is known"
