"""Pretraining run: from a recipe to a trained model folder.

run/  recipe.json  record.json  tokenizer.json  caption_words.txt  metrics.jsonl
      bad_samples.jsonl  checkpoints/  best/  samples/
model/       what `coca.load` reads
"""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import Field, model_validator
from torch import Tensor

from coca.core.errors import ConfigError
from coca.core.malloc import keep_freed_memory
from coca.data.loading.feature_file import FeatureFile
from coca.model.coca import CoCa
from coca.model.coca_config import CoCaConfig
from coca.model.deferred_weights import DeferredWeights, WeightsRecorder
from coca.model.encoders.encoder import Normalization
from coca.model.encoders.encoder_weights import EncoderWeightsConfig, load_encoder_weights
from coca.model.lora import LoraConfig, add_lora_, merged
from coca.model.pretrained import assemble, build
from coca.predict.torch_loading import load_coca
from coca.predict.torch_predictor import TorchPredictor
from coca.predict.tower import TowerEncoder, reusing_tower
from coca.processing.class_words import load_nouns
from coca.processing.processor import Processor
from coca.processing.tokenizer import TextTokenizer
from coca.train.distributed.context import DistributedContext
from coca.train.losses import LossConfig
from coca.train.trainer import TrainConfig
from coca.workflows.training.feature_cache import features_of_run
from coca.workflows.training.init_weights import (
    adopt_weights,
    name_class_tokens_,
    start_class_branch_,
)
from coca.workflows.training.pretrain_data import (
    DataConfig,
    Sources,
    TokenizerConfig,
    dropout_fault,
    make_processor,
    obtain_tokenizer,
    open_sources,
)
from coca.workflows.training.run_evaluation import EvalConfig, RunEvaluation
from coca.workflows.training.training_run import (
    RunConfig,
    RunResult,
    adapted,
    check_start,
    compare_with_earlier,
    make_objective,
    save_finished,
    start_trainer,
    threads,
    weights_described,
)
from coca.workflows.training.training_words import extend_caption_words, obtain_caption_words

logger = logging.getLogger(__name__)


FIXED = ("seed", "tokenizer", "init_from", "encoder_weights", "lora")
"""Sections of a recipe that must not change when a run is resumed."""


class PretrainConfig(RunConfig):
    """Configuration of a pretraining run, as in a recipe."""

    init_from: str | None = None
    """Model that provides initial weights and tokenizer, by any name that `coca.load` accepts: a
    folder, a run, a shipped model. Its architecture must equal `model`, except for image size,
    head and bias; its temperature is kept."""
    encoder_weights: EncoderWeightsConfig | None = None
    """Pretrained weights of the image encoder; with `init_from`, of the classifier that its encoder
    lacks. null: the encoder is trained from scratch, or has the weights of `init_from`."""
    lora: LoraConfig | None = None
    """Train low-rank adapters on the weights of `init_from`, such as for another image domain;
    they are merged into the finished model. null: train all weights."""
    model: CoCaConfig = Field(default_factory=CoCaConfig)
    """The model; `text.vocab_size` is the maximum vocabulary size of the tokenizer."""
    tokenizer: TokenizerConfig = Field(default_factory=TokenizerConfig)
    """The tokenizer."""
    class_words: Path | None = None
    """JSON file with nouns of the classes of the image encoder's own classifier
    (`coca.processing.class_words`), which captions name where it is sure; for models with
    `class_branch` or `class_tokens`. null: those of `init_from`, or none."""
    data: DataConfig
    """The training data."""
    loss: LossConfig = Field(default_factory=LossConfig)
    """The loss."""
    train: TrainConfig
    """The training loop."""
    eval: EvalConfig | None = None
    """Evaluation while the run trains. null: none."""

    @model_validator(mode="after")
    def _check_rules(self) -> "PretrainConfig":
        if self.init_from is not None and self.tokenizer.path is not None:
            raise ConfigError(
                f"tokenizer.path is {self.tokenizer.path}, but with init_from the tokenizer is the "
                "one of that model; set one of the two"
            )
        # A classifier is all that an encoder with weights can lack.
        has_classifier = getattr(self.model.image, "classes", 0) > 0
        if self.init_from is not None and self.encoder_weights is not None and not has_classifier:
            raise ConfigError(self.two_encoders())
        if self.lora is not None and (self.init_from is None or self.train.parallel == "fsdp"):
            raise ConfigError(
                f"lora adapts the weights of another model (init_from is {self.init_from}), on one "
                f"process or by ddp (train.parallel is {self.train.parallel})"
            )
        has_weights = self.init_from is not None or self.model.image.is_pretrained
        if self.data.features is not None and not has_weights and self.encoder_weights is None:
            raise ConfigError(
                "data.features is for an image encoder with pretrained weights; set "
                "encoder_weights or init_from, or model.image.kind openclip or hf"
            )
        if fault := dropout_fault(self.data.features, self.train.schedule):
            raise ConfigError(fault)
        image = self.model.image
        is_read = getattr(image, "class_branch", False) or getattr(image, "class_tokens", 0) > 0
        if self.class_words is not None and not is_read:
            raise ConfigError(
                f"class_words is {self.class_words}, but the model does not read classes; set "
                "model.image.class_branch or class_tokens"
            )
        self._check_sizes()
        self._check_losses()
        return self

    def two_encoders(self) -> str:
        """Describe the fault that the image encoder has two sources of all its weights."""
        return (
            f"init_from is {self.init_from}, which has an image encoder of its own, but "
            "encoder_weights is set as well; set one of the two"
        )

    def starts_sharded(self) -> bool:
        """Return whether ranks shard the model before it has weights: with FSDP, from scratch."""
        return (
            self.train.parallel == "fsdp"
            and self.model.image.kind == "vit"
            and self.init_from is None
            and self.encoder_weights is None
            and not self.loss.auxiliary
        )

    def _check_sizes(self) -> None:
        patch = self.model.image.patch_size
        for part in self.data.resolution:
            if part.image_size % patch:
                raise ConfigError(
                    f"data.resolution asks for images of {part.image_size} px, no multiple of "
                    f"model.image.patch_size {patch}; near sizes that fit: "
                    f"{max(part.image_size // patch, 1) * patch}, "
                    f"{(part.image_size // patch + 1) * patch}"
                )

    def _check_losses(self) -> None:
        sigmoid = self.loss.contrastive == "sigmoid"
        if self.loss.contrastive_weight and sigmoid == (self.model.initial_bias is None):
            raise ConfigError(
                f"loss.contrastive is {self.loss.contrastive} and model.initial_bias "
                f"{self.model.initial_bias}; the sigmoid loss needs a bias, -10 in SigLIP, and the "
                "softmax loss has none"
            )
        head = self.model.head
        if bool(self.loss.classification_weight) != (head is not None):
            raise ConfigError(
                "loss.classification_weight and model.head need each other: set both or neither"
            )
        if head is not None and (head.reads, head.images_per_sample) != ("image", 1):
            raise ConfigError(
                f"model.head must read image and 1 image when trained with captions, got "
                f"{head.reads} and {head.images_per_sample} images"
            )
        if self.data.loader.class_names:
            raise ConfigError(
                "data.loader.class_names follow from the head; set model.head.classes"
            )


def pretrain(config: PretrainConfig) -> RunResult:
    """Pretrain a CoCa model; the same call resumes a run.

    In distributed training (`coca.train.distributed.context`), every process calls this function.

    Raises:
        CocaError: The recipe, the data or the run folder is invalid; the message gives the reason.
    """
    keep_freed_memory()
    check_start(config, config.train, config.data.loader)
    world = DistributedContext.current()

    # Sources, tokenizer, and the model with its initial weights.
    prepared = _prepare(config)
    sources, processor, model, facts, initial = prepared
    # Before the objective, whose losses may copy the encoder as the features split it.
    features = _features(config, prepared)
    names = () if config.model.head is None else config.model.head.classes
    data = config.data.replace(loader=config.data.loader.replace(class_names=names))

    # What a step minimizes, and what is measured between steps.
    objective = make_objective(config.loss, model, processor)
    evaluation = None
    if config.eval is not None:
        evaluation = RunEvaluation(
            config.eval,
            run=config.run,
            processor=processor,
            loader=data.loader,
            micro_batch=config.train.micro_batch,
            finished=partial(_finished, config, model),
        )

    # Loader and optimizer, with the state of an earlier start; then all steps.
    train = adapted(config.train, config.lora, head=config.model.head is not None)
    trainer = start_trainer(
        config,
        model,
        objective,
        data,
        sources,
        processor,
        features=features,
        train=train,
        facts=facts,
        evaluation=evaluation,
        initial=initial,
    )
    with threads(config.threads):
        result = trainer.fit()

    # The model folder, written by the main rank from the weights of all ranks.
    weights = trainer.weights(keep=world.is_main)

    def save() -> Path:
        if not result.trained and not result.interrupted:
            logger.warning(
                "%s was finished before: all of its %s steps are done, so nothing was trained",
                config.run,
                result.step,
            )
        finished = _finished(config, model, weights)
        return save_finished(config.run, finished, processor, step=result.step)

    folder = world.broadcast_from_main(save)
    return RunResult(**vars(result), run=config.run, model=folder)


def compute_features(config: PretrainConfig) -> list[FeatureFile]:
    """Write the feature cache of a run that is missing, and check the rest; nothing is trained."""
    if config.data.features is None:
        raise ConfigError(
            "data.features is not set, so the run reads images; set data.features.folder"
        )
    return _features(config, _prepare(config))


class _Prepared(NamedTuple):
    """A run before its data loader and its first step."""

    sources: Sources
    processor: Processor
    model: CoCa
    facts: dict[str, Any]
    """What `record.json` notes about the start of the run."""
    initial: DeferredWeights | None
    """Weights of a model on the meta device; None if the model has them."""


def _prepare(config: PretrainConfig) -> _Prepared:
    """Open the sources, obtain the tokenizer, and build the model with its initial weights."""
    world = DistributedContext.current()
    sources = open_sources(config.data.sources)
    world.broadcast_from_main(
        lambda: compare_with_earlier(config, fixed=FIXED, logged=("data", "loss"))
    )
    source = None
    if config.init_from is not None:
        source = load_coca(config.init_from, device="cpu", prepack=False)
    processor = _processor(config, source, sources)
    torch.manual_seed(config.seed)
    fitted = fitted_config(config.model, source, processor.tokenizer)
    initial = None
    if config.starts_sharded():
        with WeightsRecorder() as recorder:
            model: CoCa = build(fitted)
        initial = recorder.weights_of(model)
    else:
        with reusing_tower(None if source is None else source.model):
            model = build(fitted)
    if isinstance(model.image_encoder, TowerEncoder):
        model.image_encoder.check_images(processor.image_config)
    facts: dict[str, Any] = {"ranks": world.size, "model_weights": weights_described(config.train)}
    lacking: set[str] | None = None
    if source is not None:
        adopted = adopt_weights(model, source)
        facts["init_from"] = asdict(adopted)
        place = "image_encoder.backbone."
        lacking = {name.removeprefix(place) for name in adopted.new if name.startswith(place)}
    if config.encoder_weights is not None:
        if lacking == set():
            raise ConfigError(config.two_encoders())
        facts["encoder_weights"] = load_encoder_weights(
            model.image_encoder, config.encoder_weights, only=lacking
        )
    if source is None or getattr(source.model, "class_branch", None) is None:
        start_class_branch_(model, processor)
    name_class_tokens_(model, processor)
    if config.lora is not None:
        add_lora_(model, config.lora)
    # All ranks have the same weights; patch dropout differs between ranks.
    torch.manual_seed(config.seed + world.rank)
    return _Prepared(sources, processor, model, facts, initial)


def _features(config: PretrainConfig, prepared: _Prepared) -> list[FeatureFile]:
    """Obtain the feature files of the run; none if it reads images."""
    return features_of_run(
        config.data,
        prepared.sources,
        prepared.model,
        prepared.processor.image,
        config.train,
        device=config.device,
    )


def _processor(
    config: PretrainConfig, source: TorchPredictor | None, sources: Sources
) -> Processor:
    if source is not None:
        tokenizer: TextTokenizer = source.processor.tokenizer
        caption_words = extend_caption_words(config.run, sources, source.processor, config.loss)
    else:
        tokenizer = obtain_tokenizer(
            config.run,
            sources,
            config.tokenizer,
            vocab_size=config.model.text.vocab_size,
        )
        caption_words = obtain_caption_words(
            config.run,
            sources,
            tokenizer,
            common=config.tokenizer.common_words(),
        )
    if config.class_words is not None:
        nouns = load_nouns(config.class_words)
        if caption_words is None or not nouns:
            raise ConfigError(
                f"class_words is {config.class_words}, which needs nouns, and a run whose captions "
                f"give a list of words; got {len(nouns)} nouns and "
                f"{'no' if caption_words is None else 'a'} list"
            )
        caption_words = caption_words.with_nouns(nouns)
    return make_processor(
        config.data,
        tokenizer,
        image_size=config.model.image.image_size,
        context_length=config.model.text.context_length,
        normalization=config.model.image.normalization() if source is None else _own(source),
        caption_words=caption_words,
    )


def _own(source: TorchPredictor) -> Normalization:
    """Return the normalization that another model was trained with."""
    image = source.processor.image_config
    return Normalization(image.mean, image.std, image.interpolation)


def fitted_config(
    config: CoCaConfig, source: TorchPredictor | None, tokenizer: TextTokenizer | None
) -> CoCaConfig:
    """Set the vocabulary size to that of the tokenizer, which a small corpus makes smaller.

    Also set what follows from the files of a frozen encoder. Without source and tokenizer, the
    vocabulary has the configured size.
    """
    asked = config.text.vocab_size
    found = asked if tokenizer is None else tokenizer.vocab_size
    if source is not None:
        found = source.model.config.text.vocab_size
    if found > asked:
        raise ConfigError(
            f"the tokenizer has {found} tokens, but model.text.vocab_size is {asked}; raise it to "
            f"{found}"
        )
    text = config.text.replace(vocab_size=found)
    return config.replace(image=config.image.resolved(), text=text)


def _finished(config: PretrainConfig, model: CoCa, weights: Mapping[str, Tensor]) -> CoCa:
    """Build the plain model of a run from the weights that the trainer gathered."""
    with reusing_tower(model):
        return assemble(model.config, merged(weights), source=config.run)
