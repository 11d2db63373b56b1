"""Export of a model as a folder to share, with a model card, and upload to the hub."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch

from coca.core.errors import ModelError, UnsupportedError
from coca.core.files.atomic import atomic_folder, read_json, write_atomic, write_json
from coca.core.registry import Registry
from coca.model.class_coca import ClassCoCa
from coca.model.coca import CoCa
from coca.model.coca_config import CoCaConfig, HeadConfig
from coca.model.encoders.backbone import BackboneConfig
from coca.model.pretrained import CONFIG_FILE, build, load_model, save_model, write_modules
from coca.predict.hub import Hub, HuggingFace
from coca.predict.model_kinds import FURTHER_FILES, MODEL_FILES, is_image_text
from coca.predict.open_weights import model_folder
from coca.predict.torch_loading import fingerprint
from coca.release.model_card import (
    CARD_FILE,
    UNKNOWN_LICENCE,
    CardConfig,
    DataLine,
    licence_of,
    model_card,
    results_of,
)
from coca.workflows.evaluation.report import table
from coca.workflows.training.finetune import SCORES_FOLDER

CODE_FILE = "coca_classes.py"
"""Module of the folder that `auto_map` names."""
_CODE = """\"\"\"Classes of this model; they are part of the package coca-captioners.\"\"\"

from coca.release.adapters.transformers import CoCaConfig, CoCaModel, CoCaProcessor

__all__ = ["CoCaConfig", "CoCaModel", "CoCaProcessor"]
"""
_CLASSES = {"AutoConfig": "CoCaConfig", "AutoModel": "CoCaModel", "AutoProcessor": "CoCaProcessor"}
_AUTO_MAP = {auto: f"{CODE_FILE.removesuffix('.py')}.{name}" for auto, name in _CLASSES.items()}


def add_auto_map(folder: str | Path) -> None:
    """Add the files of transformers to a model folder; `coca.load` reads it as before.

    Weights are loaded as fp32, also where the folder stores fp16.
    """
    map_model(folder)
    map_processor(folder)


def map_model(folder: str | Path) -> None:
    """Name the classes of configuration and model in `config.json`, and write their module.

    A dtype that the file already states is kept.
    """
    folder = Path(folder)
    content = {
        "dtype": "float32",
        **read_json(folder / CONFIG_FILE),
        "architectures": ["CoCaModel"],
        "auto_map": _AUTO_MAP,
        "model_type": "coca_captioner",
    }
    write_json(folder / CONFIG_FILE, content)
    write_atomic(folder / CODE_FILE, _CODE.encode())


def map_processor(folder: str | Path) -> None:
    """Name the class of the processor in `processor_config.json`, and write its module."""
    folder = Path(folder)
    write_json(
        folder / "processor_config.json",
        {"auto_map": {"AutoProcessor": _AUTO_MAP["AutoProcessor"]}},
    )
    write_atomic(folder / CODE_FILE, _CODE.encode())


class Exporter(Protocol):
    """Writes a model in a format that a plug-in adds to `coca export --format`."""

    def __call__(self, model: str, out: Path, *, options: Mapping[str, str]) -> Mapping[str, Any]:
        """Write the folder `out`, and return what the command prints, JSON-serializable.

        `options` are those of `--option KEY=VALUE`; an unknown one is a ConfigError.
        """
        ...


EXPORTERS: Registry[Exporter] = Registry("export format", "exporters")

NO_TEXT = CardConfig()
"""A card of what is recorded and measured."""


def export(
    model: str | Path,
    out: str | Path,
    *,
    card: CardConfig = NO_TEXT,
    results: Sequence[str | Path] = (),
    half: bool = False,
) -> Path:
    """Write a folder with a model and its model card, without paths of this machine.

    The card contains the recorded data, settings and machine of the model's run. The image
    encoder's own classifier is left out, unless the model has a class branch: else only
    training reads it.

    Returns:
        The folder.

    Raises:
        ModelError: There is no such model, or the results are of another model.
        UnsupportedError: It is a model of another library.
    """
    folder, out = model_folder(model), Path(out)
    if is_image_text(folder):
        raise UnsupportedError(
            f"{model} is an image-text model of another library, whose own folder is the one to "
            "share; --format onnx makes one that runs without torch"
        )
    known_as = fingerprint(folder)
    run, limits = folder.parent, card.limits
    reports = results or _reports(run, of=known_as)
    tables = [table for path in reports for table in results_of(path, of=known_as)]
    if half and tables:
        limits = (
            f"{limits}\n\nThe scores were measured before the weights went into 16 bits.".strip()
        )
    with atomic_folder(out) as unfinished:
        for name in (*MODEL_FILES, *(it for it in FURTHER_FILES if (folder / it).is_file())):
            shutil.copyfile(folder / name, unfinished / name)
        write_modules(unfinished)
    loaded = load_model(folder)
    if half or loaded.image_encoder.has_classifier:
        save_model(out, without_classifier(loaded), dtype=torch.float16 if half else None)
    text = model_card(
        out,
        title=card.title or out.name,
        intended_use=card.intended_use or _use(loaded.config.head),
        data=card.data or _data(run),
        training="\n\n".join(filter(None, (card.training.strip(), _training(run)))),
        results=tables,
        limits=limits,
        licence=card.licence or licence_of(folder) or UNKNOWN_LICENCE,
        load_as=card.load_as,
    )
    write_atomic(out / CARD_FILE, text.encode())
    return out


def without_classifier(model: CoCa) -> CoCa:
    """Return the model without the classifier of its image encoder, unless it needs or lacks it."""
    if not model.image_encoder.has_classifier or isinstance(model, ClassCoCa):
        return model
    config = model.config
    assert isinstance(config, CoCaConfig), "OpenCLIP's architecture has no such encoder"
    assert isinstance(config.image, BackboneConfig), "only backbones bring a classifier"
    smaller = build(config.replace(image=config.image.replace(classes=0))).eval()
    state = model.state_dict()
    smaller.load_state_dict({name: state[name] for name in smaller.state_dict()})
    return smaller


def push_to_hub(
    folder: str | Path, repo: str, *, private: bool = False, hub: Hub | None = None
) -> str:
    """Upload an exported folder to the hub, with the account of huggingface_hub.

    Returns:
        The name for `coca.load`.

    Raises:
        ModelError: The folder has no model card, or the hub refuses the upload.
    """
    folder = Path(folder)
    if not (folder / CARD_FILE).is_file():
        raise ModelError(
            f"{folder} has no {CARD_FILE}; `coca export` writes one that can be shared"
        )
    (hub or HuggingFace()).upload(folder, repo, private=private)
    return f"hf:{repo}"


def _use(head: HeadConfig | None) -> str:
    """Return the intended use of a model whose card has none."""
    if head is None:
        return "Gives vectors for images and texts in one space, and writes captions."
    asked = " to a question or statement" if head.reads == "text" else ""
    what = "answer" if asked else "class"
    return f"Chooses the {what} of an image{asked} among {len(head.classes):,}."


def _reports(run: Path, *, of: str) -> list[Path]:
    """Return the report that a run wrote after its training, if it is of this model."""
    report = run / SCORES_FOLDER / "report.json"
    return [report] if _json(report).get("fingerprint") == of else []


def _data(run: Path) -> list[DataLine]:
    """Return the sources of a run with their fractions of the training samples."""
    recipe = _json(run / "recipe.json")
    sources = recipe.get("data", {}).get("sources", [])
    total = sum(source["weight"] for source in sources)
    return [
        DataLine(
            name=source["name"] or source["kind"],
            size=f"{source['weight'] / total:.0%} of the samples",
            terms="not recorded",
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
    return read_json(path) if path.is_file() else {}
