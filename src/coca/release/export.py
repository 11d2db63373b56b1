"""Export of a model as a folder to share, with a model card, and upload to the hub."""

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
    """Write a folder with a model and its model card, without paths of this machine.

    The card contains the recorded data, settings and machine of the model's run.

    Args:
        model: Any name that `coca.load` accepts.
        out: Output folder; an existing one is replaced.
        title: Name of the model; default: the name of `out`.
        intended_use: Intended use, for the card.
        limits: Limitations, for the card.
        licence: The hub's identifier of the weights' licence; default: the licence in the model's
            own card, else `unknown`.
        results: Reports of `coca evaluate --out` for this model.
        half: Store the weights as fp16; they are loaded as fp32.
        load_as: Name for `coca.load` in the card, such as `hf:organisation/name`.

    Returns:
        The folder.

    Raises:
        ModelError: There is no such model, or the results are of another model.
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
    """Upload an exported folder to the hub, with the account of huggingface_hub.

    Args:
        folder: Folder written by `export`.
        repo: `ORGANISATION/NAME`; created if missing.
        private: Make the repository private.
        hub: Target hub; default: the Hugging Face hub.

    Returns:
        The name for `coca.load`.

    Raises:
        ModelError: The folder has no model card, or the hub refuses the upload.
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
    """Load an exported folder or a hub repository, with the signature of the hub's libraries.

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
    """Return the sources of a run with their fractions of the training samples."""
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
    """Format the record of a run as a table."""
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
    """Read a JSON file of a run; empty if the model does not come from a local run."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
