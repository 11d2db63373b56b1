"""A model that answers by an untrained head, as sure of itself as chance made it."""

import dataclasses

from coca.inference.predictor import Predictor
from coca.model.coca import CoCa
from coca.model.coca_config import HeadConfig
from coca.processing.image import ImageConfig, ImageTransform
from coca.processing.processor import Processor
from coca.processing.tokenizer import Tokenizer
from tiny import sharpened, tiny_config
from tiny_data import CAPTIONS
from tiny_seed import seed_weights


def answering(head: HeadConfig | None, *, seed: int = 0, batch_size: int = 3) -> Predictor:
    tokenizer = Tokenizer.train([*CAPTIONS, "what is it? yes no red 2"], vocab_size=290)
    text = dataclasses.replace(
        tiny_config().text, vocab_size=tokenizer.vocab_size, context_length=24
    )
    seed_weights(seed)
    model = sharpened(CoCa(tiny_config(text=text, head=head)))
    processor = Processor(ImageTransform(ImageConfig(image_size=16)), tokenizer, 24)
    return Predictor(model, processor, fingerprint="tiny", batch_size=batch_size)


def text_head(classes: tuple[str, ...], *, images_per_sample: int = 1) -> HeadConfig:
    return HeadConfig(classes=classes, reads="text", images_per_sample=images_per_sample, heads=3)
