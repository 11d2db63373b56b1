"""A folder of `coca export --format huggingface`, loaded by the real library, offline."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="needs transformers; run `make test-integrations`")

import transformers
from transformers import AutoModel, AutoProcessor, default_data_collator

import coca
from coca.core.errors import ConfigError
from coca.data.batch import Batch
from coca.model.coca_config import CoCaConfig
from coca.model.pretrained import build, load_config_file, save_model
from coca.processing.caption_words import CaptionWords, words_of
from coca.release.export import add_auto_map, export
from coca.train.losses import LossConfig
from coca.train.objective import CoCaObjective
from tiny_data import image_bytes
from tiny_model import write_model

TEXTS = ["a cat", "the red car on the road"]


@pytest.fixture(scope="module", params=[False, True], ids=["fp32", "fp16"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("huggingface")
    made = export(write_model(folder / "model"), folder / "out", half=request.param)
    add_auto_map(made)
    return made


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path))


@pytest.mark.filterwarnings("ignore")
def test_auto_classes_give_the_results_of_the_predictor(folder: Path, tmp_path: Path) -> None:
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    load: Any = AutoProcessor.from_pretrained
    processor = load(folder, trust_remote_code=True)
    predictor = coca.load(folder, device="cpu", prepack=False)
    images = [image_bytes(number) for number in range(3)]
    inputs = processor(images=images, text=TEXTS)
    with torch.no_grad():
        outputs = model(**inputs)
        alone = model.get_text_features(**processor(text=TEXTS))
    expected = predictor.embed_images(images), predictor.embed_texts(TEXTS)
    np.testing.assert_allclose(outputs.image_embeds, expected[0], atol=1e-5)
    np.testing.assert_allclose(outputs.text_embeds, expected[1], atol=1e-5)
    np.testing.assert_allclose(alone, expected[1], atol=1e-5)
    logits = predictor.logit_scale * expected[0] @ expected[1].T
    np.testing.assert_allclose(outputs.logits_per_image, logits, atol=1e-3)
    np.testing.assert_array_equal(outputs.logits_per_text, outputs.logits_per_image.T)
    captions = processor.batch_decode(model.generate(inputs["pixel_values"], num_beams=2))
    assert captions == [one.text for one in predictor.caption(images, num_beams=2)]
    assert model.dtype == torch.float32


@pytest.mark.filterwarnings("ignore")
def test_captions_have_listed_words_if_the_processor_is_given(tmp_path: Path) -> None:
    words = CaptionWords.of(["red", "small", "dogs", "the"])
    folder = write_model(tmp_path / "model", words=words)
    add_auto_map(folder)
    model, processor = load_both(folder)
    images = [image_bytes(number, side=16) for number in range(4)]
    pixels = processor(images=images)["pixel_values"]
    listed = processor.batch_decode(model.generate(pixels, processor=processor))
    assert listed == [best.text for best in coca.load(folder, device="cpu").caption(images)]
    assert {word for text in listed for word in words_of(text)} <= words.words
    free = model.generate(pixels, processor=processor, words="any")
    assert torch.equal(free, model.generate(pixels))
    with pytest.raises(ConfigError, match="words 'polite' needs the list of the processor"):
        model.generate(pixels, words="polite")


@pytest.mark.filterwarnings("ignore")
def test_generated_ids_are_laid_out_as_by_transformers(folder: Path) -> None:
    model, processor = load_both(folder)
    images = [image_bytes(number) for number in range(2)]
    pixels = processor(images=images)["pixel_values"]
    rows = processor.batch_decode(model.generate(pixels, num_return_sequences=3))
    captions = coca.load(folder, device="cpu").caption(images, num_return_sequences=3)
    assert rows == [one.text for best in captions for one in (best, *best.others)]
    eos = processor.processor.tokenizer.eos_id
    assert eos not in model.generate(pixels, num_beams=1, max_new_tokens=1, min_new_tokens=1)


def load_both(folder: Path) -> tuple[Any, Any]:
    load: Any = AutoProcessor.from_pretrained
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    return model, load(folder, trust_remote_code=True)


@pytest.mark.filterwarnings("ignore")
def test_a_saved_model_and_processor_are_a_model_folder_for_both_libraries(
    folder: Path, tmp_path: Path
) -> None:
    model, processor = load_both(folder)
    saved = tmp_path / "saved"
    model.save_pretrained(saved)
    processor.save_pretrained(saved)
    again, reader = load_both(saved)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor, rtol=0, atol=0)
    torch.testing.assert_close(reader(text=TEXTS)["input_ids"], processor(text=TEXTS)["input_ids"])
    predictor = coca.load(saved, device="cpu")
    before = coca.load(folder, device="cpu")
    np.testing.assert_array_equal(predictor.embed_texts(TEXTS), before.embed_texts(TEXTS))


@pytest.mark.filterwarnings("ignore")
def test_a_model_of_fp32_keeps_its_fingerprint_when_transformers_saves_it(tmp_path: Path) -> None:
    made = export(write_model(tmp_path / "model"), tmp_path / "out")
    add_auto_map(made)
    model, processor = load_both(made)
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    assert coca.load(tmp_path / "saved").fingerprint == coca.load(made).fingerprint


@pytest.mark.filterwarnings("ignore")
def test_python_in_a_saved_folder_imports_the_real_transformers(
    folder: Path, tmp_path: Path
) -> None:
    model, _ = load_both(folder)
    model.save_pretrained(tmp_path / "saved")
    model.config.save_pretrained(tmp_path / "saved")
    code = "import transformers; print(transformers.__version__)"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path / "saved", capture_output=True, text=True
    )
    assert run.stdout.strip() == transformers.__version__, run.stderr


@pytest.mark.filterwarnings("ignore")
def test_after_a_step_of_the_trainer_every_library_has_the_same_vectors(
    folder: Path, tmp_path: Path
) -> None:
    pytest.importorskip("accelerate", reason="needs accelerate; run `make test-integrations`")
    model, processor = load_both(folder)
    images = [image_bytes(number) for number in range(4)]
    texts = [*TEXTS, "a frog", "two dogs"]
    prepared = [
        processor(images=image, text=text, padding="max_length")
        for image, text in zip(images, texts, strict=True)
    ]
    samples = [{name: tensor[0] for name, tensor in one.items()} for one in prepared]
    trainer = transformers.Trainer(
        model,
        transformers.TrainingArguments(
            str(tmp_path / "run"),
            per_device_train_batch_size=4,
            max_steps=1,
            learning_rate=1e-2,
            save_steps=1,
            report_to=[],
            use_cpu=True,
        ),
        train_dataset=samples,
        data_collator=lambda some: {**default_data_collator(some), "return_loss": True},
        processing_class=processor,
    )
    trainer.train()
    saved = tmp_path / "run" / "checkpoint-1"
    trained = coca.load(saved, device="cpu")
    wanted = trained.embed_texts(TEXTS)
    assert np.abs(wanted - coca.load(folder, device="cpu").embed_texts(TEXTS)).max() > 1e-3
    again, reader = load_both(saved)
    with torch.no_grad():
        outputs = again.eval()(**reader(images=images, text=TEXTS))
    np.testing.assert_allclose(outputs.text_embeds, wanted, atol=1e-5)
    np.testing.assert_allclose(outputs.image_embeds, trained.embed_images(images), atol=1e-5)
    peer = pytest.importorskip("sentence_transformers", reason="run `make test-integrations`")
    encoder = peer.SentenceTransformer(str(saved), trust_remote_code=True, device="cpu")
    np.testing.assert_allclose(encoder.encode(TEXTS), wanted, atol=1e-5)
    encoder.save(str(tmp_path / "third"))
    third, _ = load_both(tmp_path / "third")
    for name, tensor in again.state_dict().items():
        torch.testing.assert_close(third.state_dict()[name], tensor, rtol=0, atol=0)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("bias", [None, -2.0], ids=["softmax", "sigmoid"])
def test_the_loss_is_that_of_our_own_training(tmp_path: Path, bias: float | None) -> None:
    model, processor = load_both(exported(tmp_path, bias))
    inputs = processor(images=[image_bytes(0), image_bytes(1)], text=TEXTS)
    batch = Batch(inputs["pixel_values"], inputs["input_ids"], ("0", "1"), start=0)
    losses = LossConfig(contrastive="softmax" if bias is None else "sigmoid")
    expected = CoCaObjective(losses)(model.coca, batch).total
    torch.testing.assert_close(model(**inputs, return_loss=True).loss, expected)
    assert model(**inputs).loss is None
    with pytest.raises(ConfigError, match="one text per image, got 1 images and 2 texts"):
        model(
            pixel_values=inputs["pixel_values"][:1], input_ids=inputs["input_ids"], return_loss=True
        )


@pytest.mark.filterwarnings("ignore")
def test_logits_of_a_sigmoid_model_have_its_bias(tmp_path: Path) -> None:
    model, processor = load_both(exported(tmp_path, -2.0))
    outputs = model(**processor(images=[image_bytes(0)], text=TEXTS))
    cosines = outputs.image_embeds @ outputs.text_embeds.T
    expected = model.coca.logit_scale * cosines - 2
    torch.testing.assert_close(outputs.logits_per_image, expected)
    torch.testing.assert_close(outputs.logits_per_text, expected.T)


def exported(folder: Path, bias: float | None) -> Path:
    """A folder for transformers, of a model with this bias of the sigmoid loss."""
    made = write_model(folder / "biased")
    config = load_config_file(made)
    assert isinstance(config, CoCaConfig)
    config = config.replace(initial_bias=bias)
    save_model(made, build(config))
    add_auto_map(made)
    return made


def test_the_folder_keeps_its_fingerprint(folder: Path) -> None:
    content = json.loads((folder / "config.json").read_text())
    assert content["auto_map"]["AutoModel"] == "coca_classes.CoCaModel"
    fingerprint = coca.load(folder, device="cpu", prepack=False).fingerprint
    add_auto_map(folder)
    assert coca.load(folder, device="cpu", prepack=False).fingerprint == fingerprint


@pytest.mark.filterwarnings("ignore")
def test_missing_inputs_are_an_error(folder: Path) -> None:
    from coca.release.adapters.transformers import CoCaModel, CoCaProcessor

    with pytest.raises(ConfigError, match="images, text or both, got neither"):
        CoCaProcessor.from_pretrained(folder)()
    with pytest.raises(ConfigError, match="input_ids or both, got neither"):
        CoCaModel.from_pretrained(folder)()
