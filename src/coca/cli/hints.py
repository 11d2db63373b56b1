"""Hints for unknown commands and options: the names that users of other tools try first."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any


def _names(table: Mapping[str, str]) -> dict[str, str]:
    """Invert a table of a replacement and the names that it replaces, separated by spaces."""
    return {name: replacement for replacement, names in table.items() for name in names.split()}


RIGHT = _names(
    {
        "search": "find query",
        "index": "add ingest sync",
        "index --prune": "rm remove",
        "index --watch": "watch",
        "collection info": "status stats",
        "collection list": "list ls",
        "collection drop": "drop delete",
        "duplicates": "dedup",
        "serve": "ui web",
        "caption": "describe",
        "classify": "label tag predict",
        "answer": "ask vqa",
        "embed": "encode vectors",
        "pretrain": "train fit",
        "finetune": "tune",
        "evaluate": "eval benchmark",
        "export --format onnx": "onnx",
        "--help": "help",
        "--version": "version",
        "--limit|--top|--count": "--top-k --topk --top -n --num",
        "--uri": "--db --database --path",
        "--since": "--after --from",
        "--until": "--before",
        "--filter": "--where",
        "--min-score": "--threshold",
        "--image": "--similar",
        "--text": "--query",
        "--labels": "--label --classes",
        "--out": "--output -o",
        "--device": "--gpu --cuda",
        "--model-precision": "--dtype --precision --fp16",
        "--token": "--api-key",
        "--debug": "--verbose -v",
    }
)
"""Wrong command or option -> its replacement; of several, the first that the command has."""

_SECRET = re.compile("key|token|passw|secret|auth|bearer|login|user")
"""Parts of options that protect a service."""
_ANYWHERE = ("--debug", "--quiet", "--help")


def usage(error: Any) -> str:
    """Format an error of the parser, with a hint for an unknown command or option."""
    is_option = hasattr(error, "possibilities")
    # Without the parser's guesses among unlike options.
    message = str(error.message if is_option else error.format_message()).strip().removesuffix(".")
    problem = f"{message[:1].lower()}{message[1:]}"
    if error.ctx is None:
        return problem
    called = str(error.ctx.command_path).partition(" ")[2]
    if is_option:
        hint = _option_hint(error.ctx.command, str(error.option_name))
    elif hint := _command_hint(called, message):
        problem = problem.partition(". Did you mean")[0]
    see = " ".join(filter(None, ("coca", called, "--help")))
    return f"{problem}; {hint or f'see `{see}`'}"


def _command_hint(group: str, message: str) -> str:
    """Return the hint for an unknown command of a group, if the table has one."""
    if not message.startswith("No such command"):
        return ""
    right = RIGHT.get(message.split("'")[1].lower(), "")
    return f"use: coca {right}" if right and right.startswith(group) else ""


def _option_hint(command: Any, name: str) -> str:
    """Return the hint for an unknown option of a command; "" if no option is like it."""
    if any(parameter.name in ("settings", "tasks") for parameter in command.params):
        return "settings are given as FIELD=VALUE; `coca config keys` lists them"
    options = [option for parameter in command.params for option in parameter.opts]
    dashed = name.replace("_", "-")
    if "--keys" in options and _SECRET.search(dashed):
        # The token is that of Milvus, and a service without keys is open.
        return "use --keys FILE, or the environment variable COCA_API_KEYS"
    for right in (dashed, *RIGHT.get(dashed, "").split("|")):
        if right in (*options, *_ANYWHERE):
            return f"use {right}"
    near = get_close_matches(dashed, options, n=1, cutoff=0.85)
    return f"did you mean {near[0]}?" if near else ""
