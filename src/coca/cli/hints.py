"""Hints for wrong calls: the command line that does what a wrong command or option asks for.

The tables have the names that users of other tools try first. A hint is the user's own command line
with the wrong words replaced, so that it works when it is pasted.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from coca.cli.console import to_try
from coca.core.errors import ConfigError


def _names(table: Mapping[str, str]) -> dict[str, str]:
    """Invert a table of a replacement and the names that it replaces, separated by spaces."""
    return {name: replacement for replacement, names in table.items() for name in names.split()}


COMMANDS = _names(
    {
        "search": "find query lookup look retrieve similar like nearest knn",
        "index": "add ingest import insert upsert update sync scan crawl load",
        "index --watch": "watch monitor",
        "collection info": "status stats count show",
        "collection list": "list ls collections",
        "collection drop": "drop",
        "collection alias": "alias",
        "collection calibrate": "calibrate",
        "duplicates": "dedup dedupe deduplicate duplicate dupes dups",
        "recommend": "recommendations suggest",
        "mine": "select subset sample",
        "migrate": "copy move transfer backup",
        "reindex": "re-index reembed re-embed",
        "serve": "server ui web gui api run start browse open",
        "caption": "describe captions annotate",
        "classify": "label tag predict recognize zero-shot zeroshot",
        "detect": "detection boxes",
        "answer": "ask question vqa",
        "embed": "encode embedding embeddings vectors vectorize features extract",
        "pretrain": "train",
        "finetune": "fine-tune tune fit lora",
        "evaluate": "eval test benchmark score",
        "export --format onnx": "onnx",
        "export --format onnx --int8": "quantize quantise",
        "config keys": "settings keys",
        "data tokenizer": "tokenizer tokenize",
        "--version": "version",
        "--help": "help man usage",
    }
)
"""Wrong command -> the words that replace it."""

GROUP_COMMANDS = {
    "collection": _names(
        {
            "list": "ls show-all",
            "info": "status stats describe show count",
            "drop": "rm remove delete del",
            "alias": "rename",
            "index": "reindex build",
        }
    ),
    "classes": _names({"list": "ls show", "add": "create insert", "remove": "rm delete del drop"}),
    "config": _names({"keys": "list ls help", "show": "get print"}),
}
"""Group -> wrong command -> the command of the group that replaces it."""

_MAKERS = frozenset({"create", "new", "make", "add"})
"""Wrong commands for creating a collection."""

_REMOVERS = frozenset({"rm", "remove", "delete", "del", "prune", "clean", "forget"})
"""Wrong commands for removing a record, for which there are two ways."""

OPTIONS = _names(
    {
        "-k|--top": "--top --top-k --topk -n --n --num --count --results --max --max-results --k",
        "--top|--count": "--limit",
        "--uri": "--db --database --store --path --milvus --url --host --index --in",
        "--since": "--after --from --start --newer --min-date",
        "--until": "--before --end --older --max-date",
        "--until|--format": "--to",
        "--format": "--type --fmt",
        "--port": "-p",
        "--text {}:-0.5": "--negative --without --not --avoid --exclude",
        "--min-similarity|--threshold": "--min-score",
        "--since {} --until {}": "--date --day --on-day",
        "--image|--against|--positive": "--similar --like --img --photo --file "
        "--query-image --example --image-file",
        "--text|--query": "--query -q --texts --prompt",
        "--filter": "--where --expr --filters",
        "--tag": "--tags",
        "--min-score|--min-similarity|--threshold": "--threshold --score --min-similarity "
        "--similarity --cutoff",
        "--offset": "--skip --start-at",
        "--in-memory": "--exact --brute-force",
        "--rerank": "--re-rank",
        "--collection|--title": "--name --table",
        "--prune": "--delete --remove --sync",
        "--yes": "--force -f",
        "--no-captions": "--no-caption --skip-captions",
        "--labels": "--label --class --class-names --categories --names --candidates",
        "--prompts": "--template --templates",
        "--num-beams": "--beams --beam-size --num-beam --beam",
        "--max-new-tokens": "--max-length --max-tokens --max-len --length",
        "--temperature": "--temp",
        "--out": "--output -o --out-file --outfile --save --save-to --dest",
        "--format onnx": "--onnx",
        "--format browser": "--browser --html",
        "--format huggingface": "--hf --huggingface --transformers",
        "--format onnx --int8": "--quantize --quantized --quantise --quant --int-8",
        "--half": "--fp16 --float16",
        "--model-precision": "--dtype --precision",
        "--model-precision bf16": "--bf16 --bfloat16",
        "--licence": "--license",
        "--device cuda": "--gpu --cuda",
        "--device cpu": "--cpu",
        "--model": "--weights --checkpoint --pretrained",
        "--token|--keys": "--api-key --key --password",
        "--debug": "--verbose -v --trace",
        "--quiet": "--silent -s",
    }
)
"""Wrong option -> the options that replace it: of several, the first that the command has."""

_WRITERS = ("--out", "--output", "-o", "--save")
_FILES = {"--csv": ".csv", "--jsonl": ".jsonl", "--parquet": ".parquet"}
_FILE_STEMS = {"caption": "captions", "classify": "labels", "embed": "embeddings"}
_ANYWHERE = frozenset({"--debug", "--quiet", "--help"})
_REDUNDANT_FLAGS = frozenset({"--recursive", "-r", "-R", "--subfolders"})
_REDUNDANT_VALUES = frozenset({"--batch-size", "-b", "--workers", "--num-workers"})


@dataclass(frozen=True)
class _Call:
    """A command line, split at the command that it calls."""

    path: tuple[str, ...]
    """Names of the command and of its groups."""
    command: Any
    """The command, or the group without a known command."""
    rest: tuple[str, ...]
    """Arguments and options of the command."""

    @classmethod
    def of(cls, root: Any, arguments: Sequence[str]) -> "_Call":
        """Find the command that the arguments of the program call."""
        command, path, rest = root, [], list(arguments)
        leading: list[str] = []
        while rest and hasattr(command, "commands"):
            if rest[0].startswith("-"):
                leading.append(rest.pop(0))
            elif rest[0] in command.commands:
                path.append(rest.pop(0))
                command = command.commands[path[-1]]
            else:
                break
        return cls(tuple(path), command, (*rest, *leading))

    @property
    def shown(self) -> str:
        """The command with its groups, as at a prompt."""
        return " ".join(("coca", *self.path))

    @property
    def arguments(self) -> list[str]:
        """Names of the positional arguments of the command."""
        return [one.name for one in self.command.params if one.param_type_name == "argument"]

    @property
    def options(self) -> dict[str, Any]:
        """Options of the command by each of their names."""
        return {
            name: parameter
            for parameter in self.command.params
            if parameter.param_type_name == "option"
            for name in (*parameter.opts, *parameter.secondary_opts)
        }

    def positional(self) -> Iterator[int]:
        """Yield the positions in `rest` of the positional arguments."""
        return (number for number, kind in enumerate(self._kinds()) if kind == "argument")

    def named(self) -> Iterator[str]:
        """Yield the words of `rest` that name an option."""
        kinds = zip(self.rest, self._kinds(), strict=True)
        return (word for word, kind in kinds if kind == "option")

    def _kinds(self) -> Iterator[str]:
        """Yield "argument", "option", "value" (of an option) or "end" for each word of `rest`."""
        options, is_value, ended = self.options, False, False
        for word in self.rest:
            if is_value:
                is_value = False
                yield "value"
            elif ended or not word.startswith("-") or word == "-":
                yield "argument"
            elif word == "--":
                ended = True
                yield "end"
            else:
                yield "option"
                option = options.get(word)
                # Unknown options are taken to have a value, unless it is attached to them.
                known_flag = option is not None and option.is_flag
                is_value = "=" not in word and not known_flag and word not in _ANYWHERE


def check_collection_path(root: Any, arguments: Sequence[str]) -> None:
    """Reject an existing collection as a positional argument, where `--uri` selects it."""
    call = _Call.of(root, arguments)
    if hasattr(call.command, "commands") or call.path == ("index",):
        return
    is_model_info = call.path == ("info",)
    if "--uri" not in call.options and not is_model_info:
        return
    for number in call.positional():
        word = call.rest[number]
        if word.endswith(".db") and os.path.exists(word):
            path = ("collection", "info") if is_model_info else call.path
            # A command on one collection needs its name.
            name = ["pictures"] if call.arguments[:1] == ["name"] and not is_model_info else []
            others = [*call.rest[:number], *name, *call.rest[number + 1 :]]
            command = to_try(*path, *others, "--uri", word)
            raise ConfigError(f"{word} is a collection, which --uri selects: {command}")


def check_single_dashes(root: Any, arguments: Sequence[str]) -> None:
    """Reject a long option with one dash, which the parser splits: `-top 3` is `-t op`."""
    call = _Call.of(root, arguments)
    if hasattr(call.command, "commands"):
        return
    for word in call.named():
        long = f"-{word.partition('=')[0]}"
        if word.startswith("--") or len(word) == 2 or word[:2] not in call.options:
            continue
        if long in call.options:
            rest = [f"-{it}" if it == word else it for it in call.rest]
            command = to_try(*call.path, *rest)
            raise ConfigError(f"no such option: {long[1:]}; use {long}: {command}")
        if _split_option(word)[0] == long and (hint := _hint_for_option(call, long, ())):
            raise ConfigError(hint)


def command_called(root: Any, arguments: Sequence[str]) -> str:
    """Return the command that the arguments call, such as `coca collection list`."""
    return _Call.of(root, arguments).shown


def hint_for(root: Any, arguments: Sequence[str], error: Any) -> str:
    """Return the message for a wrong command or option, with the right command line; else ""."""
    call = _Call.of(root, arguments)
    if hasattr(call.command, "commands"):
        return (
            "" if not call.rest or call.rest[0].startswith("-") else _hint_for_command(root, call)
        )
    if call.path == ("duplicates",) and (extra := [call.rest[it] for it in call.positional()]):
        against = [part for it in extra for part in ("--against", it)]
        options = [word for word in call.rest if word not in extra]
        return (
            "near-duplicates are found within a collection, or between it and other images: "
            f"{to_try(*call.path, *against, *options)}"
        )
    # A missing value and a wrong value are errors of options, too, but without possibilities.
    if hasattr(error, "option_name") and hasattr(error, "possibilities"):
        return _hint_for_option(call, str(error.option_name), error.possibilities or ())
    return ""


def _hint_for_command(root: Any, call: _Call) -> str:
    word, *rest = call.rest
    problem = f"no such command '{' '.join((*call.path, word))}'"
    known = GROUP_COMMANDS.get(call.path[0], {}) if call.path else COMMANDS
    if not call.path and word in _REMOVERS:
        return f"{problem}; {_how_to_remove(rest)}"
    if call.path == ("collection",) and word in _MAKERS:
        name = [part for it in rest[:1] for part in ("--collection", it)]
        return f"{problem}; an index run creates it: {to_try('index', 'FOLDER', *name)}"
    if word in known:
        command = known[word].split()
        if command[0] == "--help":
            return f"{problem}; use: {to_try(*rest[:1], '--help')}"
        if command[0] == "--version":
            return f"{problem}; use: {to_try('--version')}"
        if command[0] in ("collection", "duplicates", "serve") or call.path == ("collection",):
            rest = _with_uri(root, [*call.path, *command], rest)
        use = "use"
        if word == "rename":
            rest = _swapped(root, [*call.path, *command], rest)
            use = "a collection keeps its name, and an alias is a second one: use"
        return f"{problem}; {use}: {_line_with(root, [*call.path, *command], rest)}"
    if near := get_close_matches(word.lower(), call.command.commands, n=1, cutoff=0.7):
        return f"{problem}; did you mean: {_line_with(root, [*call.path, near[0]], rest)}"
    return ""


def _with_uri(root: Any, command: Sequence[str], rest: Sequence[str]) -> list[str]:
    """Put `--uri` before the positional arguments of a command that are collections."""
    positions = set(_Call.of(root, [*command, *rest]).positional())
    return [
        part
        for number, word in enumerate(rest)
        for part in (["--uri", word] if number in positions and word.endswith(".db") else [word])
    ]


def _swapped(root: Any, command: Sequence[str], rest: Sequence[str]) -> list[str]:
    """Swap the two positional arguments of a command: `rename OLD NEW` is `alias NEW OLD`."""
    words = list(rest)
    positions = list(_Call.of(root, [*command, *rest]).positional())
    if len(positions) == 2:
        first, second = positions
        words[first], words[second] = words[second], words[first]
    return words


def _line_with(root: Any, command: Sequence[str], rest: Sequence[str]) -> str:
    """Return the line of a command with its wrong options replaced, too."""
    call = _Call.of(root, [*command, *rest])
    if hasattr(call.command, "commands"):
        return to_try(*command, *rest)
    return to_try(*call.path, *_corrected(call)[0])


def _how_to_remove(rest: Sequence[str]) -> str:
    """Return the sentence on removing the file or collection that the arguments name."""
    name = next((word for word in rest if not word.startswith("-")), "")
    if name.endswith(".db"):
        command = to_try("collection", "drop", "pictures", "--uri", name)
        return f"this drops its default collection: {command}"
    folder = (name if os.path.isdir(name) else os.path.dirname(name)) or "FOLDER"
    return f"delete the file, and this removes its record: {to_try('index', folder, '--prune')}"


def _hint_for_option(call: _Call, name: str, possibilities: Sequence[str]) -> str:
    problem = f"no such option: {name}"
    if "settings" in call.arguments:
        return (
            f"{problem}; settings are given as FIELD=VALUE, such as train.steps=100; "
            f"{to_try('config', 'keys', call.path[-1])} lists them"
        )
    line, right = _corrected(call)
    dashed = name.replace("_", "-")  # as in `_corrected`
    if dashed not in right:  # of -top, the parser reports -t
        longer = [_split_option(word)[0] for word in call.rest if word.startswith(name)]
        dashed = next((it for it in longer if it in right), dashed)
        problem = f"no such option: {dashed if dashed in right else name}"
    if dashed in right:
        use = f"use {right[dashed]}" if right[dashed] else "leave it out"
        if dashed in _REDUNDANT_FLAGS:
            use = "folders are always read with their subfolders"
        elif dashed in _REDUNDANT_VALUES:
            use = "it is chosen for you"
        return f"{problem}; {use}: {to_try(*call.path, *line)}"
    # Without dashes, which would make short names alike.
    names = {it.strip("-"): it for it in possibilities}
    if near := get_close_matches(dashed.strip("-"), names, n=1, cutoff=0.7):
        option = names[near[0]]
        line = [_renamed(word, name, option) for word in line]
        return f"{problem}; did you mean {option}: {to_try(*call.path, *line)}"
    return ""


def _corrected(call: _Call) -> tuple[list[str], dict[str, str]]:
    """Replace all wrong options of a call.

    Returns:
        The words after the command, and for each replaced option the text that replaces it.
    """
    front: list[str] = []
    line: list[str] = []
    end: list[str] = []
    right: dict[str, str] = {}
    words = list(call.rest)
    while words:
        word = words.pop(0)
        if word == "--":
            line += [word, *words]
            break
        name, attached = _split_option(word)
        typed = word.partition("=")[0]
        if name in call.options and typed != name and typed.replace("_", "-") == name:
            right[name] = name
            line.append(_renamed(word, typed, name))
            continue
        if name in call.options or name in _ANYWHERE or not name.startswith("-") or name == "-":
            line.append(word)
            continue
        options = OPTIONS.get(name, "")
        if name in _REDUNDANT_FLAGS or name in _REDUNDANT_VALUES:
            right[name] = ""
            if name in _REDUNDANT_VALUES:
                _value(attached, words)
        elif name in _FILES and "--out" in call.options:
            right[name] = "--out FILE"
            suffix = _FILES[name]
            is_named = attached or (words and _names_output(call, words[0], suffix))
            given = _value(attached, words) if is_named else []
            file = given[0] if given else _FILE_STEMS.get(call.path[-1], call.path[-1])
            line += ["--out", file.removesuffix(suffix) + suffix]
        elif (name in _FILES or name in _WRITERS) and not _writes_file(call):
            right[name] = "--json"
            _value(attached, words)
            line += [] if "--json" in call.rest else ["--json"]
        elif "out" in call.arguments and (name == "--out" or options == "--out"):
            right[name] = "the argument OUT"
            end += _value(attached, words)
        elif call.arguments[:1] in (["model"], ["source"]) and (
            name in ("--model", "-m") or options == "--model"
        ):
            right[name] = "the argument MODEL"
            front += _value(attached, words)
        elif replacement := _available(call, options):
            parts = replacement.split()
            several = [part for part in parts if part.startswith("-")]
            right[name] = " and ".join(several) if "{}" in replacement else replacement
            if "--format" in parts and "--format" in line:
                parts = [part for part in parts if part not in ("--format", "onnx")]
            is_filled = "{}" in replacement
            given = _value(attached, words) if is_filled else [attached] if attached else []
            line += [part.replace("{}", given[0]) if given else part for part in parts]
            line += [] if is_filled else given
        else:
            line.append(word)
    return [*front, *line, *end], right


def _writes_file(call: _Call) -> bool:
    """Check whether a command has an output, or no result as JSON that could replace one."""
    return "--out" in call.options or "out" in call.arguments or "--json" not in call.options


def _names_output(call: _Call, word: str, suffix: str) -> bool:
    """Check whether a word is the output file, without or with its suffix, and not an input."""
    is_stem = call.path[-1] in _FILE_STEMS and not os.path.splitext(word)[1]
    return word.endswith(suffix) or (is_stem and word[:1] != "-" and not os.path.exists(word))


def _value(attached: str, following: list[str]) -> list[str]:
    """Take the value of an option: attached to it, or the next word, which is removed."""
    if attached:
        return [attached]
    return [following.pop(0)] if following and not following[0].startswith("-") else []


def _available(call: _Call, options: str) -> str:
    """Return the first of the options, separated by `|`, that the command has; else ""."""
    for replacement in options.split("|"):
        names = [part for part in replacement.split() if part.startswith("-")]
        if names and all(name in call.options or name in _ANYWHERE for name in names):
            return replacement
    return ""


def _split_option(word: str) -> tuple[str, str]:
    """Split an option from the value that is attached to it: `--top=5`, `-n5`."""
    if word.startswith("--"):
        name, _, value = word.partition("=")
        return name.replace("_", "-"), value
    long, _, value = f"-{word}".partition("=")
    if len(word) > 2 and (long in OPTIONS or long in _FILES):  # such as -top
        return long, value
    return word[:2], word[2:]


def _renamed(word: str, wrong: str, right: str) -> str:
    return right + word.removeprefix(wrong) if word.partition("=")[0] == wrong else word
