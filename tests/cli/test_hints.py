import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

from coca.cli.app import app
from coca.cli.hints import COMMANDS, GROUP_COMMANDS, OPTIONS
from tiny_cli import Run

ROOT: Any = typer.main.get_command(app)


def commands(
    group: Any = ROOT, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command with its path, groups included."""
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


def parse(line: str) -> None:
    """Parse a command line without running it; raise for a wrong one."""
    # The root group accepts its own option at any position.
    program, *arguments = shlex.split(line.replace(" --debug", ""))
    assert program == "coca"
    command = ROOT
    while hasattr(command, "commands"):
        command = command.commands[arguments.pop(0)]
    command.make_context(command.name, arguments)


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        # options
        ("search dog --top 5", "search dog -k 5"),
        ("search dog -n5", "search dog -k 5"),
        ("search dog --top=5", "search dog -k 5"),
        ("search dog --limt 5", "search dog --limit 5"),
        ("search dog --db x.db", "search dog --uri x.db"),
        ("search dog --after 2024-06-01", "search dog --since 2024-06-01"),
        ("search dog --before 2024-06-01", "search dog --until 2024-06-01"),
        ("search dog --date 2024-06-01", "search dog --since 2024-06-01 --until 2024-06-01"),
        ("search a dog -top 3", "search a dog -k 3"),
        ("search dog --to 2024-06-01", "search dog --until 2024-06-01"),
        ("search dog --without cat", "search dog --text cat:-0.5"),
        ("search dog --csv x.csv", "search dog --json"),
        ("search dog --output x.csv --json", "search dog --json"),
        ("serve -p 80", "serve --port 80"),
        ("duplicates --min-score 0.9", "duplicates --min-similarity 0.9"),
        ("export everyday m --to onnx", "export everyday m --format onnx"),
        ("export everyday m --format onnx --quantize", "export everyday m --format onnx --int8"),
        ("search --similar x.jpg", "search --image x.jpg"),
        ("search dog --where 'width > 9'", "search dog --filter 'width > 9'"),
        ("search dog --gpu", "search dog --device cuda"),
        ("search dog --dtype bf16", "search dog --model-precision bf16"),
        ("embed x.jpg --precision int8", "embed x.jpg --model-precision int8"),
        ("search dog --verbose", "search dog --debug"),
        ("--verbose search dog", "search dog --debug"),
        ("search dog --top 5 --db x.db", "search dog -k 5 --uri x.db"),
        ("recommend x.jpg --top 3", "recommend x.jpg -k 3"),
        ("answer x.jpg 'what is it?' -n 3", "answer x.jpg 'what is it?' --top 3"),
        ("duplicates --threshold 0.9", "duplicates --min-similarity 0.9"),
        ("mine out.jsonl --limit 5", "mine out.jsonl --count 5"),
        ("caption x.jpg --num_beams 2", "caption x.jpg --num-beams 2"),
        ("caption x.jpg --beams 2", "caption x.jpg --num-beams 2"),
        ("classify x.jpg --categories a,b", "classify x.jpg --labels a,b"),
        ("classify x.jpg --label a --label b", "classify x.jpg --labels a --labels b"),
        ("search dog --top_k 3", "search dog -k 3"),
        ("search dog --min_score=0.1 --top_k 3", "search dog --min-score=0.1 -k 3"),
        ("caption x.jpg -max-tokens 9", "caption x.jpg --max-new-tokens 9"),
        ("classify x.jpg -label a", "classify x.jpg --labels a"),
        ("classify x.jpg -labels a", "classify x.jpg --labels a"),
        ("classify x.jpg -model=m", "classify x.jpg --model=m"),
        ("embed photos --csv", "embed photos --out embeddings.csv"),
        ("embed photos --csv x.csv", "embed photos --out x.csv"),
        ("caption a.jpg --csv out", "caption a.jpg --out out.csv"),
        ("caption a.jpg --csv=out", "caption a.jpg --out out.csv"),
        ("index photos --recursive --batch-size 8", "index photos"),
        ("export everyday m --onnx", "export everyday m --format onnx"),
        ("export everyday m --quantize", "export everyday m --format onnx --int8"),
        ("export --model everyday --out m", "export everyday m"),
        # commands
        ("searchh dog", "search dog"),
        ("similar x.jpg -n 3", "search x.jpg -k 3"),
        ("find a dog", "search a dog"),
        ("add photos", "index photos"),
        ("watch photos", "index --watch photos"),
        ("status", "collection info"),
        ("status x.db", "collection info --uri x.db"),
        ("list", "collection list"),
        ("status --db x.db", "collection info --uri x.db"),
        ("list --db x.db", "collection list --uri x.db"),
        ("list --uri=x.db", "collection list --uri=x.db"),
        ("collection rename pictures x", "collection alias x pictures"),
        ("collection rename --db x.db old new", "collection alias --uri x.db new old"),
        ("rm photos/x.jpg", "index photos --prune"),
        ("rm x.db", "collection drop pictures --uri x.db"),
        ("train recipe.yaml", "pretrain recipe.yaml"),
        ("onnx everyday m", "export --format onnx everyday m"),
        ("Search dog", "search dog"),
        ("collection create x", "index FOLDER --collection x"),
        ("collection ls", "collection list"),
        ("collection delete best", "collection drop best"),
        ("data indexx x.tar", "data index x.tar"),
    ],
)
def test_a_wrong_name_is_answered_with_the_line_that_works(
    run: Run, typed: str, right: str
) -> None:
    (line,) = run(*shlex.split(typed), code=2).stderr.splitlines()
    assert line.startswith("error: no such ")
    suggested = line.rpartition(": ")[2]
    assert suggested == f"coca {right}"
    parse(suggested)


@pytest.mark.parametrize(
    ("typed", "right"),
    [
        ("info x.db", "collection info --uri x.db"),
        ("duplicates x.db", "duplicates --uri x.db"),
        ("search x.db a dog", "search a dog --uri x.db"),
        ("serve --port 80 x.db", "serve --port 80 --uri x.db"),
        ("collection drop x.db", "collection drop pictures --uri x.db"),
        ("collection index x.db FLAT", "collection index pictures FLAT --uri x.db"),
    ],
)
def test_a_collection_as_an_argument_is_answered_with_its_option(
    run: Run, cwd: Path, typed: str, right: str
) -> None:
    Path("x.db").mkdir()
    stderr = run(*typed.split(), code=2).stderr
    assert stderr == f"error: x.db is a collection, which --uri selects: coca {right}\n"
    parse(f"coca {right}")


def test_a_renamed_collection_is_answered_with_an_alias(run: Run) -> None:
    stderr = run("collection", "rename", "old", "new", code=2).stderr
    assert "an alias is a second one: use: coca collection alias new old" in stderr


def test_a_value_attached_to_a_short_option_is_not_taken_for_a_name(
    run: Run, images: list[str]
) -> None:
    stderr = run("classify", images[0], "-lcat,dog", "-mnowhere", code=1).stderr
    assert "no such option" not in stderr


def test_an_option_with_underscores_is_shown_as_typed(run: Run) -> None:
    assert "no such option: --top_k; use -k" in run("search", "x", "--top_k", "3", code=2).stderr


def test_help_and_version_are_options(run: Run) -> None:
    assert run("help", "search", code=2).stderr.endswith("; use: coca search --help\n")
    assert run("version", code=2).stderr.endswith("; use: coca --version\n")


def test_a_value_of_an_option_is_not_taken_for_an_argument(run: Run, cwd: Path) -> None:
    Path("x.db").mkdir()
    assert "is a collection, which" not in run("search", "x", "--uri", "x.db", code=1).stderr
    assert "is a collection, which" not in run("search", "x", "--db", "x.db", code=2).stderr


def test_an_unlike_name_is_answered_without_a_guess(run: Run) -> None:
    assert "did you mean" not in run("detect", "photos", "--top", "3", code=2).stderr
    assert "did you mean" not in run("search", "dog", "--metric", "l2", code=2).stderr


def test_words_where_files_are_expected_are_labels_or_texts(run: Run, images: list[str]) -> None:
    stderr = run("classify", images[0], "mug", "cat", code=2).stderr
    assert stderr.endswith(f"if it is a label: coca classify {images[0]} --labels mug,cat\n")
    assert run("embed", "a", "dog", code=2).stderr.endswith(": coca embed --text 'a dog'\n")


def test_other_images_are_compared_by_an_option(run: Run, images: list[str]) -> None:
    stderr = run("duplicates", "photos", "--limit", "5", code=2).stderr
    assert stderr.endswith(": coca duplicates --against photos --limit 5\n")


def test_settings_are_not_options(run: Run) -> None:
    stderr = run("pretrain", "--lr", "1", code=2).stderr
    assert "settings are given as FIELD=VALUE" in stderr
    assert "coca config keys pretrain" in stderr


def test_the_tables_replace_wrong_names_by_right_ones() -> None:
    tree = dict(commands())
    options = {name for command in tree.values() for one in command.params for name in one.opts} | {
        "--no-captions",
        "--help",
    }
    for wrong, replacement in COMMANDS.items():
        assert (wrong,) not in tree
        path = tuple(word for word in replacement.split() if not word.startswith("-"))[:2]
        assert path[:1] in tree or path in tree or replacement in ("--help", "--version")
    for group, names in GROUP_COMMANDS.items():
        assert not names.keys() & tree[(group,)].commands.keys()
        assert set(names.values()) <= tree[(group,)].commands.keys()
    for replacement in OPTIONS.values():
        for part in replacement.replace("|", " ").split():
            assert not part.startswith("-") or part in options
