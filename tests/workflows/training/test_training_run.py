from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from coca.core.errors import ConfigError
from coca.model.class_coca import ClassCoCa
from coca.model.encoders.encoder_weights import EncoderWeightsConfig
from coca.model.encoders.timm import TimmConfig
from coca.predict.torch_loading import load_coca
from coca.processing.class_words import ClassNoun, save_nouns
from coca.workflows.training.init_weights import class_texts
from coca.workflows.training.pretrain import PretrainConfig, pretrain
from tiny_workflows import recipe


def branched(images: Path, run: Path) -> PretrainConfig:
    """A run whose weights hardly move."""
    still = ("train.steps=3", "train.optimizer.lr=1e-12", "train.optimizer.weight_decay=0")
    config = recipe(images, run, "train.optimizer.freeze=[image_encoder.backbone]", *still)
    image = TimmConfig(
        name="test_resnet",
        image_size=32,
        width=32,
        classes=1000,
        class_branch=True,
        class_tokens=2,
    )
    nouns = (ClassNoun(words=("car",), classes=(817,)),)
    save_nouns(nouns, run.parent / "class_words.json")
    model = config.model.replace(image=image)
    return config.replace(model=model, class_words=run.parent / "class_words.json")


@pytest.mark.slow
def test_a_new_class_branch_starts_at_the_names_of_the_classes(
    images: Path, tmp_path: Path
) -> None:
    predictor = load_coca(pretrain(branched(images, tmp_path / "run")).model)
    model = predictor.model
    assert isinstance(model, ClassCoCa)
    branch, names = model.class_branch, model.image_encoder.class_names
    assert branch is not None
    assert names is not None
    rows = [class_texts(name) for name in names]
    texts = predictor.embed_texts([text for row in rows for text in row])
    ends = np.cumsum([len(row) for row in rows])
    means = np.stack([part.mean(axis=0) for part in np.split(texts, ends[:-1])])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    wanted = means - means.mean(axis=0)
    np.testing.assert_allclose(branch.vectors.detach().numpy(), wanted, rtol=0, atol=1e-5)
    assert predictor.processor.class_nouns
    tokens = model.class_tokens
    assert tokens is not None
    for own, name in zip(tokens.names.tolist(), names, strict=True):
        first = predictor.leading_ids(name.split(", ")[0], len(own))
        assert own == first + [-1] * (len(own) - len(first))


def test_a_class_branch_is_taken_from_a_model_that_has_one(images: Path, tmp_path: Path) -> None:
    first = pretrain(branched(images, tmp_path / "first"))
    config = branched(images, tmp_path / "second")
    second = pretrain(config.replace(init_from=str(first.model), class_words=None))
    assert load_coca(second.model).processor.class_nouns
    one, other = (load_file(it.model / "model.safetensors") for it in (first, second))
    torch.testing.assert_close(one["class_branch.vectors"], other["class_branch.vectors"])


def test_a_classifier_that_the_first_model_lacks_comes_from_encoder_weights(
    images: Path, tmp_path: Path
) -> None:
    config = branched(images, tmp_path / "run")
    assert isinstance(config.model.image, TimmConfig)
    image = config.model.image.replace(classes=0, class_branch=False, class_tokens=0)
    model = config.model.replace(image=image)
    with pytest.raises(ConfigError, match="the model does not read classes"):
        config.replace(model=model)
    pretrain(config.replace(run=tmp_path / "first", model=model, class_words=None))
    torch.manual_seed(7)
    published = timm.create_model("test_resnet", num_classes=1000).state_dict()
    torch.save(published, tmp_path / "weights.pth")
    weights = EncoderWeightsConfig(file=tmp_path / "weights.pth")
    second = config.replace(init_from=str(tmp_path / "first"), encoder_weights=weights)
    one, other = (
        load_file(run / "model" / "model.safetensors")
        for run in (tmp_path / "first", pretrain(second).run)
    )
    place = "image_encoder.backbone."
    for name, tensor in other.items():
        if name in (place + "fc.weight", place + "fc.bias"):
            assert torch.equal(tensor, published[name.removeprefix(place)])
        elif name.startswith(place):
            assert torch.equal(tensor, one[name])
    refused = second.replace(run=tmp_path / "third", init_from=str(second.run))
    with pytest.raises(ConfigError, match="set one of the two"):
        pretrain(refused)
