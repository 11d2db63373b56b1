from pathlib import Path
from typing import Any

import pytest

from coca.core.errors import DataError
from coca.data.sample import Sample
from coca.data.sources.source import SourceConfig
from coca.predict.torch_loading import load_coca
from coca.processing.caption_words import CaptionWords
from coca.processing.processor import Processor
from coca.processing.tokenizer import Tokenizer
from coca.train.losses import LossConfig
from coca.workflows.training.finetune import finetune
from coca.workflows.training.pretrain_data import Sources
from coca.workflows.training.training_words import (
    extend_caption_words,
    find_caption_words,
    obtain_caption_words,
)
from tiny_data import MemorySource, tiny_processor
from tiny_model import write_model
from tiny_workflows import CLASSES, finetune_recipe, write_classes

TOKENIZER = Tokenizer.train(["a red car"], vocab_size=280)


def sources_of(*captions: str, **settings: Any) -> Sources:
    samples = [Sample(str(row), b"", captions=(text,)) for row, text in enumerate(captions)]
    config = SourceConfig(kind="memory", path="m", **settings)
    return [(config, MemorySource(samples))]


def test_words_that_occur_three_times_are_listed_in_their_normalized_form() -> None:
    captions = ["A Dog, running", "a dog.", "(a) DOG dashing", *["a dog running"] * 20]
    assert find_caption_words(sources_of(*captions), TOKENIZER) == CaptionWords.of(
        ["a", "dog", "running"]
    )


def test_common_words_labels_and_templates_are_listed_at_their_first_occurrence() -> None:
    labels = [Sample("s", b"", labels=("red_panda",))]
    labelled = SourceConfig(kind="memory", path="m", text="labels", templates=("my {}",))
    sources = [*sources_of(*["a cat"] * 20, "a lynx"), (labelled, MemorySource(labels))]
    assert find_caption_words(sources, TOKENIZER, common=["lynx", "tiger"]) == CaptionWords.of(
        ["a", "cat", "lynx", "red", "panda", "my"]
    )


def test_answers_count_and_keywords_unless_they_are_not_captioned() -> None:
    samples = [
        Sample(
            str(row),
            b"",
            captions=("a cat",),
            text="what is it",
            answers=("tiger",),
            metadata={"tags": ["pet"]},
        )
        for row in range(3)
    ]
    tags = {"keyword_field": "tags", "keyword_fraction": 0.5}
    cases: list[tuple[dict[str, Any], list[str]]] = [
        (tags, ["a", "cat", "pet"]),
        ({**tags, "keyword_captioning": False}, ["a", "cat"]),
        ({"text": "question"}, ["what", "is", "it", "tiger"]),
    ]
    for settings, words in cases:
        config = SourceConfig(kind="memory", path="m", **settings)
        found = find_caption_words([(config, MemorySource(samples))], TOKENIZER)
        assert found == CaptionWords.of(words)


def test_impolite_words_are_withheld() -> None:
    found = find_caption_words(sources_of(*["an ugly cat"] * 3), TOKENIZER)
    assert found is not None
    assert found.withheld == {"ugly"}


@pytest.mark.parametrize(
    "captions",
    [
        ["a red car", "two dogs play"],
        ["\u4e00\u53ea\u732b", "\u4e24\u53ea\u72d7", *["\u732b"] * 3],
        ["a \ud800"],
    ],
    ids=["few texts", "without spaces", "half a character"],
)
def test_texts_that_repeat_few_words_make_no_list(captions: list[str]) -> None:
    assert find_caption_words(sources_of(*captions), TOKENIZER) is None


def test_a_sample_that_cannot_be_read_is_passed_over() -> None:
    (config, source), *_ = sources_of(*["a cat"] * 3)
    assert isinstance(source, MemorySource)
    broken = MemorySource([*source.samples, DataError("broken", reason="unreadable")])
    assert find_caption_words([(config, broken)], TOKENIZER) == CaptionWords.of(["a", "cat"])


def test_words_are_collected_until_the_run_has_a_checkpoint_and_then_read(tmp_path: Path) -> None:
    first, second = sources_of(*["a cat"] * 3), sources_of(*["a dog"] * 3)
    words = obtain_caption_words(tmp_path, first, TOKENIZER)
    assert words == CaptionWords.of(["a", "cat"])
    (tmp_path / "checkpoints" / "step_00000001").mkdir(parents=True)
    assert obtain_caption_words(tmp_path, second, TOKENIZER) == words


def processor_with(words: CaptionWords | None) -> Processor:
    own = tiny_processor()
    return Processor(own.image, own.tokenizer, own.context_length, caption_words=words)


def test_a_pretrained_model_keeps_its_words_and_learns_those_of_the_run(tmp_path: Path) -> None:
    known, sources = CaptionWords.of(["bird"]), sources_of(*["a cat"] * 3)

    def extended(words: CaptionWords | None, sources: Sources, weight: float) -> Any:
        loss = LossConfig(captioning_weight=weight)
        return extend_caption_words(tmp_path, sources, processor_with(words), loss)

    assert extended(known, sources, 1.0) == CaptionWords.of(["bird", "a", "cat"])
    assert extended(known, sources, 0.0) == known
    assert extended(known, sources_of("a cat"), 1.0) is None
    assert extended(None, sources, 1.0) is None


def test_a_fine_tuned_model_has_the_words_of_its_captions(tmp_path: Path) -> None:
    model = write_model(tmp_path / "model", words=CaptionWords.of(["bird"]))
    images, run = write_classes(tmp_path / "images"), tmp_path / "run"
    captions = ("head=null", "encoder_lr=null", "evaluate=[]", "loss.classification_weight=0")
    config = finetune_recipe(model, images, run, *captions, "loss.captioning_weight=1")
    result = finetune(config)
    assert "captioning" in result.metrics
    predictor = load_coca(result.model, device="cpu")
    assert predictor.classes == ()
    assert predictor.processor.caption_words == CaptionWords.of(
        ["bird", *["a", "photo", "of", "the"], *CLASSES]
    )
