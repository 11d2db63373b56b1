"""A model as a folder to give away: its files, a card, and the way to the hub and back."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from coca.core.errors import ModelError
from coca.core.files import write_atomic
from coca.inference.hub import Hub, HuggingFace
from coca.inference.loading import Precision, fingerprint, load, model_folder
from coca.inference.predictor import Predictor
from coca.model.pretrained import load_model, save_model
from coca.release.convert import copy_model
from coca.release.model_card import (
    CARD_FILE,
    UNKNOWN_LICENCE,
    DataLine,
    licence_of,
    model_card,
    results_of,
)
from coca.workflows.evaluation.markdown import table


def export(
    model: str | Path,
    out: str | Path,
    *,
    title: str = "",
    intended_use: str = "",
    limits: str = "",
    licence: str = "",
    results: Sequence[str | Path] = (),
    half: bool = False,
    load_as: str = "",
) -> Path:
    """Writes a folder that holds a model, its card, and nothing of the machine it was made on.

    What the run of the model has recorded stands in the card: its data, settings and machine.

    Args:
        model: Any name that `coca.load` understands.
        out: Where the folder goes; one that stands there is replaced.
        title: The model's name; default: the name of `out`.
        intended_use: What it is good for.
        limits: What it is not good for.
        licence: Identifier of the licence of the weights, in the hub's spelling; default: that of
            the card next to the model, else `unknown`.
        results: Files that `coca evaluate --out` wrote; they must be this model's.
        half: Store the weights in 16 bits; they load as 32 again.
        load_as: The name by which others will load it, such as `hf:organisation/name`.

    Returns:
        The folder.

    Raises:
        ModelError: There is no such model, or the results are another's.
    """
    folder, out = model_folder(model), Path(out)
    known_as = fingerprint(folder)
    tables = [table for path in results for table in results_of(path, of=known_as)]
    run = folder.parent
    if half and tables:
        limits = (
            f"{limits}\n\nThe scores were measured before the weights went into 16 bits.".strip()
        )
    copy_model(folder, out)
    if half:
        save_model(out, load_model(folder), dtype=torch.float16)
    card = model_card(
        out,
        title=title or out.name,
        intended_use=intended_use
        or "Gives vectors for images and texts in one space, and writes captions.",
        data=_data(run),
        training=_training(run),
        results=tables,
        limits=limits,
        licence=licence or licence_of(folder) or UNKNOWN_LICENCE,
        load_as=load_as,
    )
    write_atomic(out / CARD_FILE, card.encode())
    return out


def push_to_hub(
    folder: str | Path, repo: str, *, private: bool = False, hub: Hub | None = None
) -> str:
    """Uploads an exported folder, as the account that huggingface_hub is logged in with.

    Args:
        folder: What `export` wrote.
        repo: `ORGANISATION/NAME`; it is made if it is missing.
        private: Make it visible to its owners only.
        hub: Where it goes; default: the Hugging Face hub.

    Returns:
        The name by which `coca.load` finds it.

    Raises:
        ModelError: The folder holds no card, so was not exported, or the hub refuses it.
    """
    folder = Path(folder)
    if not (folder / CARD_FILE).is_file():
        raise ModelError(
            f"{folder} holds no {CARD_FILE}; `coca export` writes one that can be shared"
        )
    (hub or HuggingFace()).upload(folder, repo, private=private)
    return f"hf:{repo}"


def from_pretrained(
    name: str | Path,
    *,
    revision: str = "",
    device: str | None = None,
    precision: Precision = "fp32",
) -> Predictor:
    """Loads an exported folder, or a repository of the hub: `coca.load` in the hub's own words.

    Args:
        name: A folder, or `ORGANISATION/NAME`.
        revision: Branch, tag or commit of a repository; default: its main branch.
        device: As for `coca.load`.
        precision: As for `coca.load`.

    Raises:
        ModelError: There is no such model.
    """
    if not Path(name).exists():
        name = f"hf:{name}@{revision}" if revision else f"hf:{name}"
    return load(name, device=device, precision=precision)


def _data(run: Path) -> list[DataLine]:
    """The sources of a run and the share of each in what the model saw."""
    recipe = _json(run / "recipe.json")
    sources = recipe.get("data", {}).get("sources", [])
    total = sum(source["weight"] for source in sources)
    return [
        DataLine(
            source["name"] or source["kind"],
            f"{source['weight'] / total:.0%} of the samples",
            "not recorded",
        )
        for source in sources
    ]


def _training(run: Path) -> str:
    """What a run recorded about itself, as a table."""
    recipe, starts = _json(run / "recipe.json"), _json(run / "record.json").get("starts", [])
    if not recipe or not starts:
        return ""
    last = starts[-1]
    machine, code = last["machine"], last["code"]
    facts = {
        "steps": f"{recipe['train']['steps']:,}",
        "pairs in a batch": f"{recipe['data']['loader']['batch_size']:,}",
        "seed": str(recipe["seed"]),
        "begun": starts[0]["started"][:10],
        "machine": f"{machine['cores']} cores of {machine['cpu']}",
        "torch": str(last["versions"]["torch"]),
        "data fingerprint": f"`{last['data']}`",
    }
    if code is not None:
        facts["commit"] = f"`{code['commit'][:12]}`{' with changes' if code['dirty'] else ''}"
    return table(["what", "value"], facts.items())


def _json(path: Path) -> dict[str, Any]:
    """What a run left behind; nothing if the model did not come from a run here."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
