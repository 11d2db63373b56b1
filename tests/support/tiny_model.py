"""A whole model folder small enough for a test: weights, tokenizer and processor that fit."""

import dataclasses
from pathlib import Path

from coca.model.coca import CoCa
from coca.model.pretrained import save_model
from coca.processing.image import ImageConfig, ImageTransform
from coca.processing.processor import Processor
from coca.processing.tokenizer import Tokenizer
from tiny import sharpened, tiny_config
from tiny_data import CAPTIONS
from tiny_seed import seed_weights


def write_model(folder: Path, *, seed: int = 0, image_size: int = 16, context: int = 16) -> Path:
    """The same folder for the same arguments, byte for byte."""
    tokenizer = Tokenizer.train([*CAPTIONS, "a photo of the"], vocab_size=290)
    text = dataclasses.replace(tiny_config().text, vocab_size=tokenizer.vocab_size)
    seed_weights(seed)
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder, sharpened(CoCa(tiny_config(text=text))))
    image = ImageTransform(ImageConfig(image_size=image_size))
    Processor(image, tokenizer, context).save(folder)
    return folder
