"""Captions and scores of the runtime equal those of torch, for both architectures."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import tiny_architectures
from coca.model.coca import CoCa
from coca.model.generation.generate import generate
from coca.model.generation.generation_config import GenerationConfig
from coca.model.generation.scoring import score_captions as torch_scores
from coca.model.generation.scoring import scored_lengths as torch_lengths
from coca.predict.onnx_beam_search import beam_search
from coca.predict.onnx_decoder import OnnxDecoderState
from coca.predict.onnx_logits_processors import OnnxLogitsProcessors, padded_prompts
from coca.predict.onnx_sampling import sample
from coca.predict.onnx_scoring import score_captions, scored_lengths
from coca.predict.torch_loading import load_coca
from coca.processing.class_words import ClassNoun, ClassWords
from coca.processing.preprocess import TextSettings
from coca.processing.word_constraint import WordConstraint
from tiny_model import write_model
from torch_graphs import settings, torch_decoder

Case = tuple[CoCa, TextSettings, int, int]
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


def image_tokens(model: CoCa) -> torch.Tensor:
    side = model.config.image.image_size
    images = torch.randn(IMAGES, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return model.image_tokens(images)


DECODINGS: dict[str, dict[str, Any]] = {
    "greedy": {"num_beams": 1},
    "greedy, by the sum": {"num_beams": 1, "length_penalty": 0.0},
    "beams": {"num_beams": 3, "num_return_sequences": 3},
    "beams, by the sum": {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.0},
    "penalty, greedy": {"num_beams": 1, "repetition_penalty": 1.7},
    "penalty, beams": {"num_beams": 3, "num_return_sequences": 3, "repetition_penalty": 1.7},
    "no repeats": {"num_beams": 3, "no_repeat_ngram_size": 2},
    "no token twice": {"num_beams": 1, "no_repeat_ngram_size": 1},
    "long": {"num_beams": 3, "min_new_tokens": 6},
    "samples": {"temperature": 1.3, "num_return_sequences": 4, "seed": 5},
    "samples of the top": {"top_k": 5, "temperature": 2.0, "num_return_sequences": 3},
    "samples of the nucleus": {"top_p": 0.6, "num_return_sequences": 3, "seed": 1},
    "all": {
        "top_k": 9,
        "top_p": 0.8,
        "temperature": 1.5,
        "num_return_sequences": 3,
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 2,
        "min_new_tokens": 3,
    },
}


@pytest.mark.parametrize("options", DECODINGS.values(), ids=DECODINGS)
@pytest.mark.parametrize("constrained", ["", "words", "classes"])
def test_captions_equal_those_of_torch(
    case: Case, options: dict[str, Any], constrained: str
) -> None:
    model, text, heads, size = case
    seen = image_tokens(model)
    prompts = [[text.bos_id, *range(5, 5 + count)] for count in (0, 1, 2, 0, 1)]
    decoding = GenerationConfig(max_new_tokens=7, **options)
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
    numbers = [7, 7, 2**63, 0, 1]
    expected = generate(
        model,
        seen,
        prompts=prompts,
        decoding=decoding,
        constraint=constraint,
        images=numbers,
        probabilities=likely,
    )
    state = OnnxDecoderState(
        torch_decoder(model, heads=heads, head_size=size),
        seen.numpy(),
        prompts,
        pad_id=text.pad_id,
        max_position=text.positions - 1,
    )
    guide = None
    if constraint is not None and likely is not None and decoding.beams > 1:
        guide = constraint.guide(likely, width=state.logits.shape[2])
    search = beam_search if decoding.beams > 1 else partial(sample, images=numbers)
    found = search(
        state,
        padded_prompts(prompts),
        processors=OnnxLogitsProcessors(decoding, text, constraint, guide),
        decoding=decoding,
        token_budget=np.array([min(7, text.max_text_tokens + 1 - len(it)) for it in prompts]),
        eos_id=text.eos_id,
    )
    for ours, theirs in zip(found, expected, strict=True):
        assert [list(one.token_ids) for one in ours] == [one.token_ids for one in theirs]
        for one, other in zip(ours, theirs, strict=True):
            assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-4)
            assert one.rank == pytest.approx(other.rank, abs=1e-4)
            assert one.ended == other.ended


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
