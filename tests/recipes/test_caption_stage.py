import numpy as np
import pytest
import torch

from caption_stage import (
    CaptionStage,
    ImageCaptions,
    advantages,
    blend_,
    log_probabilities,
    read_images,
)
from coca.model.coca import CoCa
from coca.model.generation.generate import generate
from coca.model.generation.generation_config import GenerationConfig
from coca.predict.torch_predictor import TorchPredictor
from coca.processing.image import ImageConfig, ImageTransform
from coca.processing.processor import Processor
from coca.processing.tokenizer import Tokenizer
from tiny import seed_weights, sharpened, tiny_config
from tiny_data import CAPTIONS, MemorySource, make_samples


@pytest.fixture
def predictor() -> TorchPredictor:
    tokenizer = Tokenizer.train(CAPTIONS, vocab_size=290)
    text = tiny_config().text.replace(vocab_size=tokenizer.vocab_size, context_length=26)
    seed_weights()
    processor = Processor(ImageTransform(ImageConfig(image_size=16)), tokenizer, 26)
    model = sharpened(CoCa(tiny_config(text=text))).eval()
    return TorchPredictor(model, processor, fingerprint="tiny", batch_size=3)


def test_advantages_compare_each_sample_with_the_mean_of_the_others() -> None:
    found = advantages(np.array([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]]))
    np.testing.assert_allclose(found, [[-3.0, -1.5, 4.5], [0.0, 0.0, 0.0]])


def test_the_log_probabilities_are_those_of_the_samples(predictor: TorchPredictor) -> None:
    images = read_images([MemorySource(make_samples(3))], predictor)
    image_tokens = images.image_tokens([0, 1, 2])
    decoding = GenerationConfig(temperature=1, num_return_sequences=16, words="any")
    sampled = generate(predictor.model, image_tokens, decoding=decoding)
    text = predictor.model.config.text
    ended = [it for own in sampled for it in own if it.ended]
    owners = [row for row, own in enumerate(sampled) for it in own if it.ended]
    assert len(ended) >= 2
    framed = [[text.bos_id, *it.token_ids, text.eos_id, text.cls_id] for it in ended]
    longest = max(map(len, framed))
    tokens = torch.tensor([row + [text.pad_id] * (longest - len(row)) for row in framed])
    found, counts = log_probabilities(predictor.model, tokens, image_tokens[owners])
    assert counts.tolist() == [len(it.log_probabilities) for it in ended]
    torch.testing.assert_close(found, torch.tensor([it.total for it in ended]), atol=1e-3, rtol=0)


def test_mirror_images_follow_the_images_and_a_draw_keeps_captions(
    predictor: TorchPredictor,
) -> None:
    samples = make_samples(9)
    sources = [MemorySource(samples[:5]), MemorySource(samples[5:])]
    every = read_images(sources, predictor, mirrored=True, batch_size=4)
    assert len(every.tokens) == len(every.captions) == 18
    assert list(every.captions[:9]) == list(every.captions[9:])
    assert not torch.equal(every.tokens[:9], every.tokens[9:])
    drawn = read_images(sources, predictor, count=4, seed=1)
    rows = [
        next(row for row in range(9) if torch.equal(every.tokens[row], tokens))
        for tokens in drawn.tokens
    ]
    assert rows == sorted(set(rows))
    assert list(drawn.captions) == [every.captions[row] for row in rows]


def test_samples_get_better_and_nothing_but_the_multimodal_decoder_changes(
    predictor: TorchPredictor,
) -> None:
    model = predictor.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    photos = read_images([MemorySource(make_samples(6))], predictor)
    photos = ImageCaptions(photos.tokens, [[CAPTIONS[row % 3]] for row in range(6)])
    stage = CaptionStage(model, predictor.processor, photos, [photos], steps=45, rate=3e-3)
    rewards = list(stage.run())
    assert len(rewards) == 45
    assert np.mean(rewards[-10:]) > 4 * np.mean(rewards[:10])
    for name, tensor in model.state_dict().items():
        if not name.startswith("multimodal_decoder."):
            assert torch.equal(tensor, before[name]), name


def test_a_blend_lies_on_the_line_between_two_decoders(predictor: TorchPredictor) -> None:
    decoder = predictor.model.multimodal_decoder
    after = {name: weights.detach().clone() for name, weights in decoder.named_parameters()}
    before = {name: weights + 1 for name, weights in after.items()}
    blend_(decoder, before, 0.25)
    for name, weights in decoder.named_parameters():
        torch.testing.assert_close(weights.detach(), after[name] + 0.75)
