"""One contract of every predictor: torch, the exported graphs run by torch, and ONNX Runtime."""

import inspect
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import coca.predict.onnx_predictor
import coca.predict.torch_predictor
from coca.core.errors import ConfigError, UnsupportedError
from coca.predict.onnx_predictor import open_exported
from coca.predict.predictor import Predictor
from coca.predict.short_vectors import shorten, shortened
from coca.predict.torch_loading import load_coca
from coca.predict.video import classify_files, embed_files
from coca.processing.caption_words import CaptionWords, words_of
from coca.search.predictor import DescribingEmbedder
from tiny_data import image_bytes
from tiny_model import write_model
from torch_graphs import exported

# Of the size of the model's input, so that both ways of resizing give equal pixels.
IMAGES = [image_bytes(number, side=16) for number in range(7)]
TEXTS = ["a red car", "two dogs play", "the small cat sleeps on a long wooden bench", "a"]
LABELS = ["car", "small cat", "dogs"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = CaptionWords.of(["red", "small", "dogs", "cat", "the", "two", "naked"])
    return write_model(tmp_path_factory.mktemp("model") / "model", words=words)


@pytest.fixture(scope="module")
def reference(folder: Path) -> Predictor:
    return load_coca(folder, device="cpu", prepack=False, batch_size=3)


@pytest.fixture(
    scope="module",
    params=["torch", "graphs", pytest.param("onnx", marks=[pytest.mark.export])],
)
def predictor(
    request: pytest.FixtureRequest, folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Predictor:
    if request.param == "torch":
        return load_coca(folder, device="cpu", batch_size=3)
    out = tmp_path_factory.mktemp(request.param)
    if request.param == "graphs":
        return exported(load_coca(folder, device="cpu", prepack=False, batch_size=3), out)
    for module in ("onnx", "onnxruntime", "onnxscript"):
        pytest.importorskip(module, reason="needs the extra onnx; run `make test-export`")
    # In a process of its own: the exporter does not read functions with checks of shapes.
    words = ("export", str(folder), str(out / "exported"), "--format", "onnx")
    subprocess.run([sys.executable, "-m", "coca", *words], check=True, capture_output=True)
    return open_exported(out / "exported", batch_size=3)


def test_it_is_a_predictor(predictor: Predictor, reference: Predictor) -> None:
    assert isinstance(predictor, Predictor)
    for name in ("fingerprint", "embed_dim", "context_length", "max_text_tokens"):
        assert getattr(predictor, name) == getattr(reference, name)
    assert (predictor.classes, predictor.answers_questions, predictor.images_per_sample) == (
        (),
        False,
        1,
    )
    assert predictor.logit_scale == pytest.approx(reference.logit_scale)
    assert predictor.image_settings.image_size == 16
    assert predictor.leading_ids(TEXTS[2], 3) == reference.leading_ids(TEXTS[2], 3)


@pytest.mark.parametrize(
    "name",
    [name for name, one in vars(Predictor).items() if inspect.isfunction(one) and name[0] != "_"],
)
def test_signatures_are_those_of_the_protocol(name: str) -> None:
    def shape(kind: type) -> list[tuple[str, Any, Any]]:
        found = inspect.signature(getattr(kind, name)).parameters.values()
        return [(one.name, one.kind, one.default) for one in found]

    for kind in (
        coca.predict.torch_predictor.TorchPredictor,
        coca.predict.onnx_predictor.OnnxPredictor,
    ):
        assert shape(kind) == shape(Predictor)


def test_embeddings_equal_those_of_torch(predictor: Predictor, reference: Predictor) -> None:
    for found, expected in (
        (predictor.embed_images(IMAGES), reference.embed_images(IMAGES)),
        (predictor.embed_texts(TEXTS), reference.embed_texts(TEXTS)),
        (
            predictor.class_embeddings(LABELS, templates=["a {}", "{}"]),
            reference.class_embeddings(LABELS, templates=["a {}", "{}"]),
        ),
    ):
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-4)
    squares = [predictor.prepare_image(image) for image in IMAGES]
    assert squares[0].shape == (3, 16, 16)
    np.testing.assert_allclose(
        predictor.embed_prepared(squares), predictor.embed_images(IMAGES), atol=1e-5
    )


@pytest.mark.parametrize("prompt", ["", "a blue xyz", "red-"])
def test_only_listed_words_are_added_to_a_prompt(predictor: Predictor, prompt: str) -> None:
    listed = {"red", "small", "dogs", "cat", "the", "two"}
    for best in predictor.caption(IMAGES, prompt=prompt, num_return_sequences=3):
        for one in (best, *best.others):
            assert one.text.startswith(prompt)
            assert set(words_of(one.completion)) <= listed
    for best in predictor.caption(IMAGES, words="listed", num_return_sequences=3):
        assert set(words_of(best.text)) <= {*listed, "naked"}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_beams": 1},
        {"num_return_sequences": 3, "length_penalty": 0.5},
        {"words": "listed"},
        {"words": "any", "num_beams": 2},
        {"temperature": 1.0, "num_return_sequences": 3, "seed": 2},
        {"top_k": 5, "top_p": 0.9, "words": "any", "no_repeat_ngram_size": 1},
        {"repetition_penalty": 1.5, "min_new_tokens": 2},
    ],
    ids=str,
)
def test_captions_equal_those_of_torch(
    predictor: Predictor, reference: Predictor, options: Any
) -> None:
    images, prompts = [*IMAGES[:3], IMAGES[0]], ["", "a", "the small", "two"]
    for found, expected in zip(
        predictor.caption(images, prompt=prompts, max_new_tokens=4, **options),
        reference.caption(images, prompt=prompts, max_new_tokens=4, **options),
        strict=True,
    ):
        assert len(found.others) == len(expected.others)
        for one, other in zip((found, *found.others), (expected, *expected.others), strict=True):
            assert (one.text, one.completion) == (other.text, other.completion)
            assert one.token_ids == other.token_ids
            assert one.score == pytest.approx(other.score, abs=1e-3)
            assert one.rank_score == pytest.approx(other.rank_score, abs=1e-3)


def test_one_pass_gives_the_vectors_and_captions_of_two(predictor: Predictor) -> None:
    prepared = [predictor.prepare_image(image) for image in [*IMAGES, *IMAGES[:2]]]
    described = predictor.describe(prepared)
    assert isinstance(predictor, DescribingEmbedder)
    # Other batches are other sums in floating point.
    vectors = np.stack([one.vector for one in described])
    np.testing.assert_allclose(vectors, predictor.embed_prepared(prepared), atol=1e-6)
    texts = [one.caption for one in described]
    assert texts == [caption.text for caption in predictor.caption([*IMAGES, *IMAGES[:2]])]
    short = shorten(predictor, 8).describe(prepared)
    np.testing.assert_allclose(
        [one.vector for one in short], shortened(vectors, 8), atol=1e-6, strict=False
    )
    assert [one.caption for one in short] == texts
    named = predictor.describe(prepared, captions=False)
    np.testing.assert_allclose([one.vector for one in named], vectors, atol=1e-6, strict=False)
    assert not any(one.caption for one in named)
    assert predictor.describe([]) == []


def test_one_pass_in_one_batch_equals_two_to_the_last_bit(
    reference: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = [reference.prepare_image(image) for image in IMAGES[:3]]
    expected = reference.embed_prepared(prepared), [it.text for it in reference.caption(IMAGES[:3])]
    assert isinstance(reference, coca.predict.torch_predictor.TorchPredictor)
    passes: list[int] = []
    encoder = reference.model.image_encoder
    hook = encoder.register_forward_hook(lambda *args: passes.append(1))
    described = reference.describe(prepared)
    hook.remove()
    assert len(passes) == 1
    assert np.array_equal([one.vector for one in described], expected[0])
    assert [one.caption for one in described] == expected[1]


@pytest.mark.parametrize("by", ["similarity", "likelihood"])
def test_labels_are_ranked_as_by_torch(predictor: Predictor, reference: Predictor, by: Any) -> None:
    found, expected = (one.classify(IMAGES, LABELS, by=by) for one in (predictor, reference))
    for row, other in zip(found, expected, strict=True):
        chances = {one.label: one.probability for one in other}
        assert [one.probability for one in row] == pytest.approx(
            [chances[one.label] for one in row], abs=1e-3
        )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda one: one.caption(IMAGES, num_beams=2, num_return_sequences=3), "2 beams cannot"),
        (lambda one: one.caption(IMAGES, max_new_tokens=0), "max_new_tokens must be"),
        (lambda one: one.caption(IMAGES, prompt="a b " * 40), "leaves no room"),
        (lambda one: one.caption(IMAGES, prompt=["a"]), "1 prompts do not fit 7 images"),
        (lambda one: one.caption(IMAGES, num_beems=2), "did you mean 'num_beams'"),
        (lambda one: one.score(IMAGES, TEXTS, only=np.ones((1, 1), bool)), "shape of the scores"),
        (lambda one: one.classify(IMAGES), "no head that classifies images"),
        (lambda one: one.classify(IMAGES, []), "there is no label"),
        (lambda one: one.classify(IMAGES, ["a", "a"]), "given twice"),
        (lambda one: one.classify(IMAGES, ["a", "a"], by="likelihood"), "given twice"),
        (lambda one: one.classify(IMAGES, ["a"], templates=["cat"]), "has no {}"),
    ],
)
def test_wrong_calls_have_the_same_errors(predictor: Predictor, call: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call(predictor)


def test_files_are_embedded_and_classified(predictor: Predictor, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(IMAGES[0])
    files = [str(tmp_path / "a.png")]
    np.testing.assert_allclose(embed_files(predictor, files), predictor.embed_images(files))
    assert len(classify_files(predictor, files, LABELS)[0]) == len(LABELS)


def test_an_exported_model_names_the_operations_that_need_torch(predictor: Predictor) -> None:
    if isinstance(predictor, coca.predict.torch_predictor.TorchPredictor):
        assert len(predictor.embed_clips([IMAGES[:2]])) == 1
        assert len(predictor.caption_clips([IMAGES[:2]], max_new_tokens=2)) == 1
        return
    for call, message in (
        (lambda: predictor.caption_clips([IMAGES[:2]]), "and no videos"),
        (lambda: predictor.embed_clips([IMAGES[:2]]), "one image at a time"),
        (lambda: predictor.answer(IMAGES[:1]), "no head that answers"),
    ):
        with pytest.raises(UnsupportedError, match=message):
            call()
