"""Captions and scores of the runtime equal those of torch, for both architectures."""

import numpy as np
import pytest
import torch

import tiny_architectures
from coca.model.generation.generate import generate
from coca.model.generation.generation_config import GenerationConfig
from coca.model.generation.scoring import score_captions as torch_scores
from coca.model.generation.scoring import scored_lengths as torch_lengths
from coca.model.openclip.openclip import AnyCoCa
from coca.predict.onnx_beam_search import beam_search
from coca.predict.onnx_decoder import DecoderState
from coca.predict.onnx_scoring import score_captions, scored_lengths
from coca.predict.torch_loading import load_coca
from coca.processing.class_words import ClassNoun, ClassWords
from coca.processing.preprocess import TextSettings
from coca.processing.word_constraint import WordConstraint
from tiny_model import write_model
from torch_graphs import settings, torch_decoder

Case = tuple[AnyCoCa, TextSettings, int, int]
IMAGES = 5


@pytest.fixture(params=["coca", "openclip"], scope="module")
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    if request.param == "coca":
        predictor = load_coca(
            write_model(tmp_path_factory.mktemp("models") / "model"), prepack=False
        )
        return predictor.model, settings(predictor.model, predictor.processor), 3, 16
    model = tiny_architectures.openclip().eval()
    text = model.config.text
    layout = TextSettings(
        context_length=text.context_length,
        positions=text.context_length,
        max_text_tokens=text.max_text_tokens,
        pad_id=text.pad_id,
        bos_id=text.bos_id,
        eos_id=text.eos_id,
        suffix=(text.eos_id,),
        skipped=(text.bos_id, text.eos_id),
        suppressed=tuple(text.suppress_tokens),
        cleaning="clip",
    )
    return model, layout, 2, 16


def image_tokens(model: AnyCoCa) -> torch.Tensor:
    side = model.config.image.image_size
    images = torch.randn(IMAGES, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.image_tokens(images)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("penalty", [0.0, 1.0])
@pytest.mark.parametrize("constrained", ["", "words", "classes"])
def test_captions_equal_those_of_torch(
    case: Case, beams: int, penalty: float, constrained: str
) -> None:
    model, text, heads, size = case
    seen = image_tokens(model)
    prompts = [[text.bos_id, *range(5, 5 + count)] for count in (0, 1, 2, 0, 1)]
    decoding = GenerationConfig(
        num_beams=beams, num_return_sequences=beams, length_penalty=penalty, max_new_tokens=7
    )
    words = [[first, *range(20, 20 + length)] for first in range(8, 14) for length in range(3)]
    constraint = None
    if constrained:
        # The vocabulary of the model is larger than that of the constraint.
        known = max(23, text.eos_id + 1)
        constraint = WordConstraint(words, [14, 15], eos_id=text.eos_id, vocab_size=known)
    likely = None
    if constrained == "classes":
        assert constraint is not None
        nouns = [ClassNoun((str(row),), (row,)) for row in range(len(words))]
        constraint.class_words = ClassWords(
            nouns, map(str, range(99)), encode=lambda word, count: words[int(word) % 18][:count]
        )
        likely = np.eye(len(words), dtype=np.float32)[[3, 8, 9, 17, 2]]
        likely[1] = 0.1
    expected = generate(
        model,
        seen,
        prompts=prompts,
        decoding=decoding,
        constraint=constraint,
        probabilities=likely,
    )
    state = DecoderState(
        torch_decoder(model, heads=heads, head_size=size),
        seen.numpy(),
        prompts,
        pad_id=text.pad_id,
        max_position=text.positions - 1,
    )
    found = beam_search(
        state,
        [min(7, text.max_text_tokens + 1 - len(prompt)) for prompt in prompts],
        text,
        num_beams=beams,
        length_penalty=0.0 if beams == 1 else penalty,
        constraint=constraint,
        probabilities=likely,
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert [list(one.token_ids) for one in ours] == [one.token_ids for one in theirs]
        for one, other in zip(ours, theirs, strict=True):
            assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-4)
            assert one.rank == pytest.approx(other.rank, abs=1e-4)


def test_scores_equal_those_of_torch(case: Case) -> None:
    model, text, heads, size = case
    rows = [[text.bos_id, *words, *text.suffix] for words in ([7], [8, 9, 10, 11], [12, 7, 9])]
    tokens = np.full((3, 8), text.pad_id, np.int64)
    for target, row in zip(tokens, rows, strict=True):
        target[: len(row)] = row
    seen = image_tokens(model)
    expected = torch_scores(model, seen, torch.from_numpy(tokens)).numpy()
    decoder = torch_decoder(model, heads=heads, head_size=size)
    for vocabulary in (60, 4_000_000):  # all texts in one row, or one text a row
        found = score_captions(decoder, seen.numpy(), tokens, text, vocab_size=vocabulary)
        np.testing.assert_allclose(found, expected, atol=1e-4)
    lengths = torch_lengths(model, torch.from_numpy(tokens)).tolist()
    assert scored_lengths(tokens, text).tolist() == lengths
