"""Open weights: download, convert and cache published models of other projects.

    openclip:coca_ViT-B-32/laion2b_s13b_b90k    published weights, by OpenCLIP's name and tag
    hf:ORGANISATION/NAME[@REVISION]             a repository of the Hugging Face hub
    PREFIX:ORGANISATION/NAME, PREFIX:FOLDER     a model of a kind that a plug-in adds
    weights.bin, or its folder                  OpenCLIP weights on this machine

The cache contains `models/NAME`, converted model folders with a `source.json`, and
`files/REPOSITORY`, for files placed by hand if the hub cannot be reached.
"""

import hashlib
import logging
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from coca.core.config.frozen_config import from_dict
from coca.core.errors import ConfigError, MissingExtraError, ModelError, did_you_mean
from coca.core.extras import require_installed
from coca.core.files.atomic import (
    atomic_folder,
    read_json,
    read_model_json,
    sha256_file,
    user_cache,
    write_json,
)
from coca.model.openclip.openclip_config import (
    OPEN_CLIP_CONFIG,
    OPEN_CLIP_WEIGHTS,
    OpenCLIPConfig,
    from_open_clip,
)
from coca.model.openclip.openclip_weights import (
    config_of_weights,
    convert_state_dict,
    restore_state_dict,
)
from coca.model.openclip.state_dict_io import read_state
from coca.model.pretrained import CONFIG_FILE, assemble, build_on_meta, save_model
from coca.model.shipped import shipped
from coca.predict import openclip_model
from coca.predict.hub import Hub, HuggingFace
from coca.predict.model_kinds import (
    FURTHER_FILES,
    MODEL_FILES,
    MODELS,
    SOURCE_FILE,
    is_coca_config,
    is_image_text,
    is_model,
    is_openclip,
    is_tokenizer,
    is_transformers_config,
    refuse_code,
    weights_in,
)
from coca.predict.run_model import model_of_run
from coca.processing.clip_bpe import VOCABULARY_FILE, installed_vocabulary, read_vocabulary
from coca.processing.image import ImageConfig, ImageTransform
from coca.processing.processor import Processor

logger = logging.getLogger(__name__)

# Conversion of OpenCLIP weights to a model folder, with tokenizer and preprocessing.


OPENAI_MEAN = (0.48145466, 0.4578275, 0.40821073)
OPENAI_STD = (0.26862954, 0.26130258, 0.27577711)
"""Mean and standard deviation of CLIP's training images per RGB channel, for values in [0, 1]."""

_RESIZE = ("shortest", "squash")
"""Values of `resize_mode` that are supported."""


@dataclass(frozen=True)
class About:
    """Content of an `open_clip_config.json`."""

    model: OpenCLIPConfig
    """Configuration of the model."""
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    """OpenCLIP's `preprocess_cfg`; missing keys are as for CLIP."""


def read_about(path: Path) -> About:
    """Read an `open_clip_config.json`, or a file with its `model_cfg` only."""
    content = read_model_json(path)
    if not isinstance(content, dict):
        raise ModelError(f"{path} must contain one JSON object")
    try:
        return About(
            from_open_clip(content.get("model_cfg", content)), content.get("preprocess_cfg") or {}
        )
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from None


def import_weights(
    weights: Path,
    folder: Path,
    *,
    vocabulary: Path,
    about: About | None = None,
    source: str,
    caveat: str = "",
) -> None:
    """Convert a file of OpenCLIP weights to a model folder, atomically."""
    state = read_state(weights)
    try:
        about = about or About(config_of_weights(state))
        _require_shapes(about.model, state)
        converted = convert_state_dict(state, about.model)
    except ModelError as error:
        raise ModelError(f"{weights} cannot be used: {error}") from error
    model = assemble(about.model, converted, source=weights)
    image = ImageTransform(_image_config(about))
    processor = Processor(image, read_vocabulary(vocabulary), about.model.text.context_length)
    known = {"source": source, "file": weights.name, "sha256": sha256_file(weights)}
    with atomic_folder(folder) as unfinished:
        save_model(unfinished, model)
        processor.save(unfinished)
        write_json(unfinished / SOURCE_FILE, known | ({"caveat": caveat} if caveat else {}))


def _require_shapes(config: OpenCLIPConfig, state: Mapping[str, Tensor]) -> None:
    """Compare shapes under OpenCLIP's names, which match the names in the file."""
    wanted = restore_state_dict(build_on_meta(config).state_dict(), config)
    for name in wanted.keys() & state.keys():
        given, asked = tuple(state[name].shape), tuple(wanted[name].shape)
        # A scale may be a scalar or a vector of length 1.
        if given != asked and {given, asked} != {(), (1,)}:
            raise ModelError(f"{name} has shape {given}, but the configuration asks for {asked}")


def caveat_of(folder: Path) -> str:
    """Read name and caveat of imported weights from the `source.json` of their folder.

    Returns:
        Such as `NAME: it writes captions but cannot search`; empty without a caveat.
    """
    path = folder / SOURCE_FILE
    try:
        known = read_json(path)
        caveat = known.get("caveat", "")
        return f"{known.get('source', folder)}: {caveat}" if caveat else ""
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from None


def _image_config(about: About) -> ImageConfig:
    given = about.preprocess
    resize = given.get("resize_mode", "shortest")
    if resize not in _RESIZE:
        raise ModelError(
            f"images resized by {resize!r} are unknown here; known: {', '.join(_RESIZE)}"
        )
    content = {
        "image_size": about.model.image.image_size,
        "resize": resize,
        "mean": given.get("mean", OPENAI_MEAN),
        "std": given.get("std", OPENAI_STD),
        "interpolation": given.get("interpolation", "bicubic"),
    }
    try:
        return from_dict(ImageConfig, content, source="preprocess_cfg")
    except ConfigError as error:
        raise ModelError(str(error)) from None


VOCABULARY_NAMES = ("tokenizer.json", "merges.txt", VOCABULARY_FILE)
"""Names of CLIP's vocabulary."""

_TRANSFORMERS_FILES = (
    CONFIG_FILE,
    "preprocessor_config.json",
    "processor_config.json",
    "model.safetensors.index.json",
)

_CAPTIONS_ONLY = (
    "it writes captions but cannot search: its embeddings reach 0.8 % zero-shot on ImageNet; for "
    "search take openclip:coca_ViT-B-32/laion2b_s13b_b90k"
)


@dataclass(frozen=True)
class Published:
    """Published weights on the hub, without the other files of a model folder."""

    repo: str
    """Repository of the weights."""
    weights: str
    """Weights file in the repository."""
    preset: str
    """Name of the matching model preset."""
    caveat: str = ""
    """Warning for users of the weights; default: none."""


PUBLISHED: Mapping[str, Published] = {
    "coca_ViT-B-32/laion2b_s13b_b90k": Published(
        "laion/CoCa-ViT-B-32-laion2B-s13B-b90k", OPEN_CLIP_WEIGHTS[2], "openclip_vit_b_32"
    ),
    "coca_ViT-B-32/mscoco_finetuned_laion2b_s13b_b90k": Published(
        "laion/mscoco_finetuned_CoCa-ViT-B-32-laion2B-s13B-b90k",
        OPEN_CLIP_WEIGHTS[2],
        "openclip_vit_b_32",
        _CAPTIONS_ONLY,
    ),
    "coca_ViT-L-14/laion2b_s13b_b90k": Published(
        "laion/CoCa-ViT-L-14-laion2B-s13B-b90k", OPEN_CLIP_WEIGHTS[2], "openclip_vit_l_14"
    ),
    "coca_ViT-L-14/mscoco_finetuned_laion2b_s13b_b90k": Published(
        "laion/mscoco_finetuned_CoCa-ViT-L-14-laion2B-s13B-b90k",
        OPEN_CLIP_WEIGHTS[1],
        "openclip_vit_l_14",
    ),
}
"""All CoCa weights that OpenCLIP publishes, by OpenCLIP's model name and tag."""


@dataclass(frozen=True)
class _Remote:
    """A file of a repository."""

    repo: str
    name: str
    revision: str | None = None


_VOCABULARY = _Remote("openai/clip-vit-base-patch32", "merges.txt")


class OpenWeights:
    """Finds, downloads and converts weights; converted models are cached."""

    def __init__(self, cache: Path | None = None, hub: Hub | None = None) -> None:
        """Configure cache and hub."""
        self.cache = cache or user_cache()
        self._hub = hub or HuggingFace()

    def published(self, name: str) -> Path:
        """Return the model folder of weights that OpenCLIP publishes, by model and tag."""
        if name not in PUBLISHED:
            if name.startswith("coca_"):
                raise ConfigError(f"openclip:{name} is unknown; {did_you_mean(name, PUBLISHED)}")
            return self._image_text(name)
        known, source = PUBLISHED[name], f"openclip:{name}"
        folder = self._folder(source)
        if not is_model(folder):
            wanted = [self._vocabulary(), _Remote(known.repo, known.weights)]
            vocabulary, weights = self._fetch(source, wanted)
            import_weights(
                weights,
                folder,
                vocabulary=vocabulary,
                about=About(OpenCLIPConfig.presets()[known.preset]),
                source=source,
                caveat=known.caveat,
            )
        return folder

    def _image_text(self, name: str) -> Path:
        """Return the folder of an image-text model of OpenCLIP, `ARCHITECTURE/TAG` or `/FILE`."""
        architecture, _, tag = name.partition("/")
        file = Path(tag)
        source = f"openclip:{architecture}/{_file_key(file) if file.is_file() else tag}"
        folder = self._folder(source)
        if is_openclip(folder):
            return folder
        about: Mapping[str, Any] = {}
        if not file.is_file():
            about = openclip_model.published(name, also=[*PUBLISHED])
            repo, _, weights = about["hf_hub"].rpartition("/")
            names = (weights,) if weights else (OPEN_CLIP_WEIGHTS[0], OPEN_CLIP_WEIGHTS[2])
            (file,) = self._fetch(source, [self._first(source, repo, names)])
        openclip_model.save(architecture, about, file, folder)
        return folder

    def _first(self, source: str, repo: str, files: Sequence[str]) -> _Remote:
        """Return the first of some files that a repository has."""
        names = files if len(files) == 1 else self._listing(source, repo, None, " or ".join(files))
        return _Remote(repo, next((name for name in files if name in names), files[0]))

    def repository(self, name: str) -> Path:
        """Return the folder of a hub model, `ORGANISATION/NAME` or `ORGANISATION/NAME@REVISION`."""
        source = f"hf:{name}"
        folder = self._folder(source)
        if is_model(folder) or is_image_text(folder):
            return folder
        repo, _, revision = name.partition("@")
        names = self._listing(source, repo, revision or None)
        remote = partial(_Remote, repo, revision=revision or None)
        if set(MODEL_FILES) <= set(names):
            kept = [name for name in (*MODEL_FILES, *FURTHER_FILES) if name in names]
            return self._copied(source, [remote(name) for name in kept])
        weights = next((name for name in OPEN_CLIP_WEIGHTS if name in names), None)
        if CONFIG_FILE in names:
            (config,) = self._fetch(source, [remote(CONFIG_FILE)])
            if is_transformers_config(config):
                require_installed("transformers", extra="transformers")
                kept = [it for it in names if it in _TRANSFORMERS_FILES or is_tokenizer(it)]
                tensors = [it for it in names if re.fullmatch(r"model(-.*)?\.safetensors", it)]
                kept += tensors or [it for it in names if it == "pytorch_model.bin"]
                return self._copied(source, [remote(name) for name in kept])
            if OPEN_CLIP_CONFIG not in names:
                refuse_code(config, source)
        if OPEN_CLIP_CONFIG in names:
            (config,) = self._fetch(source, [remote(OPEN_CLIP_CONFIG)])
            if not is_coca_config(config):
                require_installed("open_clip", extra="openclip")
                kept = [it for it in names if it in (weights, OPEN_CLIP_CONFIG) or is_tokenizer(it)]
                return self._copied(source, [remote(name) for name in kept])
        if weights is None:
            raise ModelError(
                f"{source} has neither a model of ours ({', '.join(MODEL_FILES)}) nor weights of "
                f"OpenCLIP ({' or '.join(OPEN_CLIP_WEIGHTS)})"
            )
        wanted = [self._vocabulary(), remote(weights)]
        if OPEN_CLIP_CONFIG in names:
            wanted.append(remote(OPEN_CLIP_CONFIG))
        vocabulary, path, *about = self._fetch(source, wanted)
        import_weights(
            path,
            folder,
            vocabulary=vocabulary,
            about=read_about(about[0]) if about else None,
            source=source,
            caveat=next((one.caveat for one in PUBLISHED.values() if one.repo == repo), ""),
        )
        return folder

    def of_kind(self, prefix: str, name: str) -> Path:
        """Return the folder of a model of a kind of `MODELS`, a folder or a hub repository."""
        kind, source, folder = MODELS.get(prefix), f"{prefix}:{name}", Path(name)
        if not folder.is_dir():
            folder = self._folder(source)
            if not kind.is_kind(folder):
                if kind.choose is None:
                    raise ModelError(f"{source} is not a folder on this machine")
                repo, _, revision = name.partition("@")
                kept = kind.choose(self._listing(source, repo, revision or None))
                self._copied(source, [_Remote(repo, it, revision or None) for it in kept])
        if not kind.is_kind(folder):
            raise ModelError(f"{source} is not a model of the kind {prefix}")
        return folder

    def _copied(self, source: str, wanted: Sequence[_Remote]) -> Path:
        """Copy the files of a repository to a folder of the cache."""
        found, folder = self._fetch(source, wanted), self._folder(source)
        with atomic_folder(folder) as unfinished:
            for path, file in zip(found, wanted, strict=True):
                (unfinished / file.name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, unfinished / file.name)
        return folder

    def local(self, path: Path) -> Path:
        """Convert local OpenCLIP weights, a file or its folder, and return the model folder.

        Configuration and vocabulary next to the weights are used if they exist.
        """
        weights = weights_in(path) if path.is_dir() else path
        if weights is None:
            raise ModelError(f"{path} has none of {', '.join(OPEN_CLIP_WEIGHTS)}")
        used = [weights, *(weights.with_name(it) for it in (OPEN_CLIP_CONFIG, *VOCABULARY_NAMES))]
        folder = self._folder(_file_key(*(path for path in used if path.is_file())))
        if not is_model(folder):
            vocabulary = self._vocabulary_of(weights)
            about = weights.with_name(OPEN_CLIP_CONFIG)
            import_weights(
                weights,
                folder,
                vocabulary=vocabulary,
                about=read_about(about) if about.is_file() else None,
                source=weights.name,
            )
        return folder

    def _folder(self, source: str) -> Path:
        return self.cache / "models" / _file_name(source)

    def _place(self, repo: str) -> Path:
        return self.cache / "files" / _file_name(repo)

    def _vocabulary(self, folder: Path | None = None) -> Path | _Remote:
        """Locate CLIP's vocabulary: a local file, else its file on the hub."""
        if folder is not None:
            found = [path for name in VOCABULARY_NAMES if (path := folder / name).is_file()]
            if found:
                return found[0]
        return installed_vocabulary() or _VOCABULARY

    def _vocabulary_of(self, weights: Path) -> Path:
        """Return CLIP's vocabulary for local weights."""
        try:
            (found,) = self._fetch("CLIP's vocabulary", [self._vocabulary(folder=weights.parent)])
        except (ModelError, MissingExtraError) as error:
            raise ModelError(
                f"{weights} is there, but CLIP's vocabulary is not: place one of "
                f"{', '.join(VOCABULARY_NAMES)} in {weights.parent}. ({error})"
            ) from None
        return found

    def _fetch(self, source: str, wanted: Sequence[Path | _Remote]) -> list[Path]:
        """Return the files, placed by hand or downloaded from the hub."""
        placed = [
            file if isinstance(file, Path) else self._place(file.repo) / file.name
            for file in wanted
        ]
        pairs = list(zip(wanted, placed, strict=True))
        self._report(source, [file for file, path in pairs if not path.is_file()])
        found: list[Path] = []
        for file, path in pairs:
            if isinstance(file, Path) or path.is_file():
                found.append(path)
                continue
            try:
                found.append(self._hub.fetch(file.repo, file.name, revision=file.revision))
            except ModelError as error:
                missing = " and ".join(
                    f"{other.name} of {other.repo} as {path}"
                    for other, path in pairs[len(found) :]
                    if isinstance(other, _Remote) and not path.is_file()
                )
                raise ModelError(
                    f"{source} cannot be fetched ({error}): fetch by other means and place "
                    f"{missing}"
                ) from None
        return found

    def _report(self, source: str, missing: Sequence[Path | _Remote]) -> None:
        """Log the size and licence of files before they are downloaded."""
        remote = [it for it in missing if isinstance(it, _Remote)]
        for repo, revision in dict.fromkeys((it.repo, it.revision) for it in remote):
            names = [it.name for it in remote if it.repo == repo]
            if about := self._hub.about(repo, names, revision=revision):
                logger.warning("%s is downloaded from %s: %s", source, repo, about)

    def _listing(
        self,
        source: str,
        repo: str,
        revision: str | None,
        files: str = "the configuration, the weights (.safetensors) and the tokenizer",
    ) -> list[str]:
        placed = self._place(repo)
        if placed.is_dir():
            return [path.relative_to(placed).as_posix() for path in placed.rglob("*")]
        try:
            return self._hub.files(repo, revision=revision)
        except ModelError as error:
            raise ModelError(
                f"{source} cannot be fetched ({error}): fetch {files} of the repository {repo} by "
                f"other means and place them in {placed}"
            ) from None


_FAMILIES = {
    "clip": "hf:openai/clip-vit-base-patch32",
    "siglip": "hf:google/siglip-base-patch16-224",
    "siglip2": "hf:google/siglip2-base-patch16-224",
}
"""A repository of each family of models that people name."""
_ARCHITECTURE = re.compile(r"(coca_)?(ViT|RN\d|convnext|EVA|MobileCLIP)[\w./-]*", re.IGNORECASE)
"""Names of OpenCLIP's architectures; OpenAI's names have a slash, such as `ViT-B/32`."""
_REPOSITORY = re.compile(r"\w[\w.-]*/\w[\w.-]*(@[\w.-]+)?")


def _other_forms(name: str) -> str:
    """Return the names that load what a name without a prefix means in other libraries."""
    if family := _FAMILIES.get(name.casefold()):
        return family
    if _ARCHITECTURE.fullmatch(name):
        try:
            names = openclip_model.names_of(name)
        except MissingExtraError:
            names = [f"openclip:{it}" for it in PUBLISHED if it.startswith(f"{name}/")]
            names = names or [f"openclip:{name.replace('/', '-')}/TAG (extra `openclip`)"]
        return " or ".join(names)
    return f"hf:{name}" if _REPOSITORY.fullmatch(name) else ""


def _file_key(*paths: Path) -> str:
    """Return a name for the content of files, from their paths, sizes and times."""
    states = ((path.resolve(), path.stat()) for path in paths)
    key = " ".join(f"{path} {state.st_size} {state.st_mtime_ns}" for path, state in states)
    return f"{paths[0].stem} {hashlib.sha256(key.encode()).hexdigest()[:16]}"


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.-]+", "--", text)


def model_folder(name: str | Path, *, open_weights: OpenWeights | None = None) -> Path:
    """Resolve a model name to its folder; open weights are downloaded and converted if needed."""
    kind, _, rest = str(name).partition(":")
    if kind in ("openclip", "hf") and rest and Path(rest).is_dir():
        return model_folder(rest, open_weights=open_weights)
    path, known = Path(name), shipped()
    if is_model(path):
        return path
    if str(name) in known and not path.exists():
        return known[str(name)]
    weights = open_weights or OpenWeights()
    if kind in ("openclip", "hf"):
        return (weights.published if kind == "openclip" else weights.repository)(rest)
    if rest and kind in MODELS.names():
        return weights.of_kind(kind, rest)
    if is_image_text(path):
        return path
    if path.is_file() or (path.is_dir() and weights_in(path)):
        return weights.local(path)
    if path.is_dir():
        if (path / CONFIG_FILE).is_file():
            refuse_code(path / CONFIG_FILE, path)
        return model_of_run(path)
    raise ModelError(
        f"{name} is not a model folder, and no model of that name is shipped"
        + (f"; use {forms}" if (forms := _other_forms(str(name))) else "")
        + f"; shipped: {', '.join(known) or 'none'}"
    )
