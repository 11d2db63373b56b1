import hashlib
import pickle
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from coca.core.errors import ConfigError, ModelError
from coca.model.encoders.encoder_weights import EncoderWeightsConfig, load_encoder_weights
from coca.model.encoders.timm import TimmConfig, TimmEncoder


def encoder(classes: int = 0) -> TimmEncoder:
    torch.manual_seed(1)
    config = TimmConfig(name="test_resnet", image_size=64, width=96, classes=classes)
    return TimmEncoder(config).eval()


@pytest.fixture
def published() -> dict[str, Tensor]:
    """The weights of another model of the same architecture, with its classifier."""
    torch.manual_seed(2)
    return dict(timm.create_model("test_resnet", num_classes=5).state_dict())


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"tensor_{number}": tensor for number, tensor in enumerate(state.values())}


def loads(state: dict[str, Tensor], path: Path, *, classes: int = 0) -> TimmEncoder:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    made = encoder(classes)
    load_encoder_weights(made, EncoderWeightsConfig(file=path))
    return made


def same(made: TimmEncoder, state: dict[str, Tensor]) -> bool:
    own = made.backbone.state_dict()
    return all(torch.equal(tensor, state[name]) for name, tensor in own.items())


@pytest.mark.parametrize("classes", [0, 5])
@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pth"])
def test_weights_load_by_name_in_any_order(
    name: str, classes: int, published: dict[str, Tensor], tmp_path: Path
) -> None:
    turned = dict(reversed(published.items()))
    assert same(loads(turned, tmp_path / name, classes=classes), published)


@pytest.mark.parametrize("classes", [0, 5])
def test_weights_of_other_names_load_in_order(
    classes: int, published: dict[str, Tensor], tmp_path: Path
) -> None:
    made = loads(renamed(published), tmp_path / "weights.pth", classes=classes)
    assert same(made, published)
    assert len(made.backbone.state_dict()) == len(published) - (0 if classes else 2)


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    other = dict(timm.create_model("test_efficientnet", num_classes=5).state_dict())
    with pytest.raises(ModelError, match="no name is equal, and the shapes"):
        loads(renamed(other), tmp_path / "weights.pth")


def test_a_missing_tensor_and_another_shape_are_named(
    published: dict[str, Tensor], tmp_path: Path
) -> None:
    first, *rest = published
    with pytest.raises(ModelError, match=f"lacks 1 tensors, such as {first}"):
        loads({name: published[name] for name in rest}, tmp_path / "weights.pth")
    with pytest.raises(ModelError, match=f"{first} has shape"):
        loads({**published, first: torch.zeros(1)}, tmp_path / "weights.pth")


def test_a_pickle_with_more_than_tensors_is_not_run(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "was_run",))

    path.write_bytes(pickle.dumps(Evil(), protocol=2))
    with pytest.raises(ModelError):
        load_encoder_weights(encoder(), EncoderWeightsConfig(file=path))
    torch.save({"weights": Evil()}, path)
    with pytest.raises(ModelError, match="has more than tensors"):
        load_encoder_weights(encoder(), EncoderWeightsConfig(file=path))
    assert not (tmp_path / "was_run").exists()


@pytest.mark.parametrize("content", [{"epoch": 3}, [torch.zeros(2)], {"state_dict": {"epoch": 3}}])
def test_a_file_that_is_not_a_state_dict_is_refused(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pth")
    with pytest.raises(ModelError, match="is not a state dict: names with tensors"):
        load_encoder_weights(encoder(), EncoderWeightsConfig(file=tmp_path / "weights.pth"))


def install(folder: Path, state: dict[str, Tensor]) -> str:
    """A package with one file of weights; returns its SHA-256."""
    package, info = folder / "some_model", folder / "some_model-1.5.dist-info"
    package.mkdir()
    info.mkdir()
    (package / "__init__.py").write_text("raise AssertionError('it was imported')")
    torch.save(state, package / "weights.pth")
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-model\nVersion: 1.5\n")
    (info / "RECORD").write_text("some_model/__init__.py,,\nsome_model/weights.pth,,\n")
    return hashlib.sha256((package / "weights.pth").read_bytes()).hexdigest()


def test_weights_of_a_package_are_found_without_importing_it(
    published: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = install(tmp_path, published)
    monkeypatch.syspath_prepend(tmp_path)
    made = encoder()
    config = EncoderWeightsConfig(package="some-model==1.5", sha256=digest)
    facts = load_encoder_weights(made, config)
    assert same(made, published)
    count = len(made.backbone.state_dict())
    assert facts == {"source": "some-model==1.5", "sha256": digest, "tensors": count}


@pytest.mark.parametrize(
    ("package", "sha256", "complaint"),
    [
        ("some-model==1.5", "0" * 64, "has the SHA-256 .*, not 0000"),
        ("some-model", "", "and sha256 is not set"),
        ("some-model==1.4", "0" * 64, r"installed in version 1\.5, not 1\.4"),
        ("no-such-model==1", "0" * 64, r"`pip install no-such-model==1`"),
    ],
)
def test_another_package_than_expected_is_refused(
    package: str,
    sha256: str,
    complaint: str,
    published: dict[str, Tensor],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install(tmp_path, published)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match=complaint):
        load_encoder_weights(encoder(), EncoderWeightsConfig(package=package, sha256=sha256))


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({}, "one of file, package and hub, got none"),
        ({"file": Path("a"), "hub": True}, "got file and hub"),
        ({"package": "a", "sha256": "A"}, "64 hexadecimal digits"),
        ({"hub": True, "sha256": "0" * 64}, "not for the hub"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        EncoderWeightsConfig(**settings)  # type: ignore[arg-type]
