"""Model folders and predictors small enough for a test: a captioner and an answerer."""

from pathlib import Path

from coca.model.coca import CoCa
from coca.model.coca_config import HeadConfig
from coca.model.pretrained import build, save_model
from coca.predict.torch_predictor import TorchPredictor
from coca.processing.caption_words import CaptionWords
from coca.processing.image import ImageConfig, ImageTransform
from coca.processing.processor import Processor
from coca.processing.tokenizer import Tokenizer
from tiny import seed_weights, sharpened, tiny_config
from tiny_data import CAPTIONS


def write_model(
    folder: Path,
    *,
    seed: int = 0,
    image_size: int = 16,
    context: int = 16,
    words: CaptionWords | None = None,
) -> Path:
    """The same folder for the same arguments, byte for byte."""
    tokenizer = Tokenizer.train([*CAPTIONS, "a photo of the"], vocab_size=290)
    text = tiny_config().text.replace(vocab_size=tokenizer.vocab_size)
    seed_weights(seed)
    folder.mkdir(parents=True, exist_ok=True)
    save_model(folder, sharpened(CoCa(tiny_config(text=text))))
    image = ImageTransform(ImageConfig(image_size=image_size))
    Processor(image, tokenizer, context, caption_words=words).save(folder)
    return folder


def answering(head: HeadConfig | None) -> TorchPredictor:
    tokenizer = Tokenizer.train([*CAPTIONS, "what is it? yes no red 2"], vocab_size=290)
    text = tiny_config().text.replace(vocab_size=tokenizer.vocab_size, context_length=24)
    seed_weights()
    model = sharpened(build(tiny_config(text=text, head=head)))
    processor = Processor(ImageTransform(ImageConfig(image_size=16)), tokenizer, 24)
    return TorchPredictor(model, processor, fingerprint="tiny", batch_size=3)


def text_head(classes: tuple[str, ...], *, images_per_sample: int = 1) -> HeadConfig:
    return HeadConfig(classes=classes, reads="text", images_per_sample=images_per_sample, heads=3)
