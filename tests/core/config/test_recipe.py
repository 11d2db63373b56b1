import math
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from coca.core.config.recipe import fill_in, merge, parse_override, read_recipe
from coca.core.errors import ConfigError

# Keys and texts that no rule of `merge` treats apart, so that its plain laws hold.
keys = st.sampled_from(["a", "b", "c", "d"])
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)
trees = st.dictionaries(
    keys,
    st.recursive(
        scalars | st.lists(scalars, max_size=3),
        lambda inner: st.dictionaries(keys, inner, min_size=1, max_size=4),
        max_leaves=8,
    ),
    max_size=4,
)


def written(folder: Path, text: str | bytes) -> Path:
    path = folder / "recipe.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def leaves(tree: Any, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], Any]:
    if not isinstance(tree, dict):
        return {path: repr(tree)}
    return {
        key: leaf
        for name, part in tree.items()
        for key, leaf in leaves(part, (*path, name)).items()
    }


# --- merge ---


@given(trees)
def test_an_empty_layer_changes_nothing(tree: Any) -> None:
    assert merge(tree, {}) == merge({}, tree) == tree


@given(trees)
def test_a_layer_merged_twice_is_the_layer(tree: Any) -> None:
    assert merge(tree, tree) == tree


@given(trees, trees)
def test_the_later_layer_wins_and_the_rest_of_the_earlier_stays(base: Any, over: Any) -> None:
    merged, late = leaves(merge(base, over)), leaves(over)
    assert late.items() <= merged.items()
    for path, leaf in leaves(base).items():
        # A leaf of the base gives way to one on its path, above or below.
        gone = any(path[: len(at)] == at or at[: len(path)] == path for at in late)
        assert gone or merged[path] == leaf


@given(trees, trees)
def test_merging_changes_neither_layer(base: Any, over: Any) -> None:
    before = repr((base, over))
    merge(base, over)
    assert repr((base, over)) == before


def test_a_text_is_the_preset_of_the_section_that_is_merged_into_it() -> None:
    assert merge({"model": "tiny"}, {"model": {"width": 64}}) == {
        "model": {"preset": "tiny", "width": 64}
    }


def test_positions_reach_into_a_list() -> None:
    base = {"sources": [{"path": "a", "weight": 1}, {"path": "b"}]}
    assert merge(base, {"sources": {"1": {"weight": 2}}}) == {
        "sources": [{"path": "a", "weight": 1}, {"path": "b", "weight": 2}]
    }


@pytest.mark.parametrize("over", [{"2": "c"}, {"-1": "c"}, {"x": "c"}, {}])
def test_what_is_no_position_of_a_list_replaces_it(over: dict[str, str]) -> None:
    assert merge(["a", "b"], over) == over


# --- read_recipe ---


@given(tree=trees)
def test_a_written_tree_is_read_as_it_was(
    tree: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = written(tmp_path_factory.mktemp("recipe"), yaml.safe_dump(tree | {"a": 1}))
    assert read_recipe(path) == tree | {"a": 1}


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1e-3", 1e-3),
        ("3E4", 3e4),
        ("-2e+5", -2e5),
        ("1.5e3", 1500.0),
        ("1.e2", 100.0),
        (".5e1", 5.0),
        ("0.1", 0.1),
        ("1_000e1", 10000.0),
        (".inf", math.inf),
    ],
)
def test_every_usual_form_of_a_number_is_a_number(text: str, number: float, tmp_path: Path) -> None:
    value = read_recipe(written(tmp_path, f"lr: {text}"))["lr"]
    assert isinstance(value, float)
    assert value == number


@pytest.mark.parametrize("text", ["'1e-3'", "e3", "1e", "1e-3x", "1.2.3e4"])
def test_what_only_resembles_a_number_stays_text(text: str, tmp_path: Path) -> None:
    assert read_recipe(written(tmp_path, f"name: {text}"))["name"] == text.strip("'")


def test_dates_and_keys_become_text(tmp_path: Path) -> None:
    assert read_recipe(written(tmp_path, f"day: {date(2024, 5, 1)}\n7: seven")) == {
        "day": "2024-05-01",
        "7": "seven",
    }


def test_anchors_and_merge_keys_work(tmp_path: Path) -> None:
    text = (
        "base: &base {lr: 1, seed: 2}\nmore: &more {<<: *base, seed: 3}\nmost: {<<: *more, lr: 4}\n"
    )
    assert read_recipe(written(tmp_path, text)) == {
        "base": {"lr": 1, "seed": 2},
        "more": {"lr": 1, "seed": 3},
        "most": {"lr": 4, "seed": 3},
    }


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: 1\nb: 2\na: 3\n", r"recipe\.yaml \(line 3\): the key 'a' is given twice"),
        (
            "a: !!python/object/apply:os.system [echo]\n",
            r"could not determine a constructor for the tag",
        ),
        (
            "a: 1\nb: !own x\n",
            r"\(line 2\): could not determine a constructor for the tag '!own'",
        ),
        ("", r"is empty; it should contain lines such as `seed: 1`"),
        ("- a\n- b\n", r"contains a list; it should contain"),
        ("a: [1,\nb: 2\n", r"\(line 3\): expected ',' or ']'"),
        ("a: 1\n---\nb: 2\n", r"\(line 2\): but found another document"),
        ("a: 2024-13-40\n", r"recipe\.yaml: month must be in 1..12"),
        ("a: &a {b: *a}\n", r"Circular reference detected"),
        ("a: *b\n", r"\(line 1\): found undefined alias 'b'"),
        ("[a]: 1\n", r"\(line 1\): found unhashable key"),
        (b"a: \xff\n", r"is not UTF-8 text: invalid start byte"),
        (b"a: \x07\n", r"special characters are not allowed"),
    ],
)
def test_a_bad_recipe_is_reported_in_one_line(
    text: str | bytes, sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        read_recipe(written(tmp_path, text))
    assert str(tmp_path / "recipe.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


# --- parse_override ---


@pytest.mark.parametrize(
    ("text", "tree"),
    [
        ("seed=3", {"seed": 3}),
        ("optimizer.lr=1e-3", {"optimizer": {"lr": 1e-3}}),
        ("a.b.c=[1, 2]", {"a": {"b": {"c": [1, 2]}}}),
        ("a={b: 1}", {"a": {"b": 1}}),
        ("name=x=y", {"name": "x=y"}),
        ("name='3'", {"name": "3"}),
        ("name=", {"name": None}),
        ("name=null", {"name": None}),
        (" a . b = 1", {"a": {"b": 1}}),
    ],
)
def test_an_override_is_a_path_and_a_value(text: str, tree: Any) -> None:
    assert parse_override(text) == tree


@pytest.mark.parametrize("text", ["seed", "=3", "a..b=3", ".a=3", "a.=3", "", "--seed"])
def test_an_override_without_a_path_or_value_is_reported(text: str) -> None:
    with pytest.raises(ConfigError, match=r"should look like section\.field=value") as caught:
        parse_override(text)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize("text", ["a=[1", "a=!!python/name:os.system", "a=2024-13-40"])
def test_an_override_with_a_bad_value_is_reported_in_one_line(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_override(text)
    assert repr(text) in str(caught.value)
    assert "\n" not in str(caught.value)


# --- the variable ---


@pytest.mark.parametrize(
    ("root", "path"),
    [("photos", "photos/a"), ("photos/", "photos/a"), ("/", "/a"), ("s3://it", "s3://it/a")],
)
def test_the_folder_of_the_data_is_filled_in_everywhere(root: str, path: str) -> None:
    tree = {"data_root": root, "data": [{"path": "${data_root}/a", "n": 1}], "text": "{} $5"}
    assert fill_in(tree) == {"data": [{"path": path, "n": 1}], "text": "{} $5"}


def test_a_home_folder_is_understood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    assert fill_in({"data_root": "~/x", "path": "${data_root}/a"}) == {"path": "/home/me/x/a"}


@given(trees)
def test_a_tree_without_the_variable_stays_as_it_is(tree: Any) -> None:
    assert fill_in(tree) == tree == fill_in({**tree, "data_root": "x"})


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        ({"path": "${data_root}/a"}, "data_root is missing"),
        ({"data_root": 5, "path": "${data_root}/a"}, "data_root is 5; it must be the folder"),
        ({"data_root": "x", "path": "${root}/a"}, r"\$\{root\} is unknown"),
    ],
)
def test_a_variable_without_a_value_is_refused(tree: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        fill_in(tree)


def test_a_folder_that_nothing_reads_is_refused_where_it_is_given() -> None:
    with pytest.raises(ConfigError, match=r"data_root = 'x' changes nothing"):
        fill_in({"data_root": "x", "path": "a"}, given=True)


def test_data_in_place_of_a_recipe_are_answered_with_their_setting(tmp_path: Path) -> None:
    for name in ("photos.zip", "photos"):
        with pytest.raises(
            ConfigError, match=r"is not a recipe, a YAML .*'data\.sources=\[{kind: "
        ):
            read_recipe(tmp_path / name)
