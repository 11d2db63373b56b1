"""Objective of a run whose image encoder teaches by its own classifier."""

from coca.core.errors import ConfigError
from coca.model.captioner import Captioner
from coca.processing.processor import Processor
from coca.train.distillation import ClassPrompts
from coca.train.objective import CoCaObjective, LossConfig


def make_objective(config: LossConfig, model: Captioner, processor: Processor) -> CoCaObjective:
    """Create the objective of a run, with the prompts of the encoder's classes if it distills.

    Raises:
        ConfigError: Distillation is on, but the encoder has no classifier or no class names.
    """
    if not config.distillation_weight:
        return CoCaObjective(config)
    names = model.image_encoder.class_names
    if names is None:
        raise ConfigError(
            f"loss.distillation_weight is {config.distillation_weight}, but the image encoder has "
            "no classifier with class names; choose an encoder of kind timm with image.classes "
            "1000, or set the weight to 0"
        )
    return CoCaObjective(
        config, ClassPrompts(names, config.distillation.templates, processor.texts)
    )
