"""Compiled and recomputed blocks train as plain blocks do."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch._inductor.exc import InductorError

import tiny_blocks
from coca.core.errors import CocaError, ConfigError
from coca.model.coca import CoCa
from coca.model.encoders.timm import TimmConfig
from coca.model.layers.transformer import CrossBlock, TransformerBlock
from coca.train.blocks import blocks_of, compilation, prepare_blocks_, set_training_mode
from coca.train.optim.param_groups import freeze
from tiny import tiny_config
from tiny_architectures import openclip
from tiny_blocks import CASES, made, step
from tiny_ranks import Results, on_ranks

LIMIT_S = 1500
"""Compilation takes a minute on two free cores, and far longer on a busy machine."""


def test_blocks_are_the_repeated_layers_with_trained_weights() -> None:
    model = made().model
    own = [part for part in model.modules() if isinstance(part, TransformerBlock | CrossBlock)]
    assert blocks_of(model) == own
    freeze(model, ("image_encoder",))
    of_images = sum(isinstance(part, TransformerBlock) for part in model.image_encoder.modules())
    assert blocks_of(model) == own[of_images:]


def test_blocks_of_other_architectures_and_libraries_are_found() -> None:
    foreign = CoCa(
        tiny_config(image=TimmConfig(name="test_vit", image_size=32, patch_size=16, width=64))
    )
    assert len(blocks_of(foreign.image_encoder)) == 6
    assert {type(block).__name__ for block in blocks_of(foreign.image_encoder)} == {"Block"}
    layers = {type(block).__name__ for block in blocks_of(openclip())}
    assert layers >= {"OpenCLIPDecoderLayer"}


@pytest.mark.parametrize("settings", [{"compiled": True}, {"recompute_every": 1}])
def test_a_model_without_blocks_is_refused(settings: dict[str, Any]) -> None:
    given: dict[str, Any] = {"compiled": False, "recompute_every": None, **settings}
    with pytest.raises(ConfigError, match=r"train\.\w+ is .*, but Linear has no trained blocks"):
        prepare_blocks_(nn.Linear(2, 2), **given)


def test_blocks_with_batch_norms_are_not_recomputed() -> None:
    layers = [nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)) for _ in range(2)]
    model = nn.ModuleDict({"layers": nn.ModuleList(Layer(layer) for layer in layers)})
    with pytest.raises(ConfigError, match="all blocks of ModuleDict have batch norms"):
        prepare_blocks_(model, compiled=False, recompute_every=1)


def test_frozen_layers_of_any_model_keep_their_statistics(caplog: pytest.LogCaptureFixture) -> None:
    inner = nn.Sequential(nn.BatchNorm1d(3), nn.Dropout(0.5))
    model = nn.Sequential(inner, nn.Linear(3, 3), nn.BatchNorm1d(3))
    freeze(model, ["0"])
    set_training_mode(model, ranks=2)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert torch.equal(model[0](torch.ones(2, 3)), model[0](torch.ones(2, 3)))
    model(5 + torch.randn(8, 3))
    changed = [name for name, it in model.state_dict().items() if not torch.equal(it, before[name])]
    assert changed == ["2.running_mean", "2.running_var", "2.num_batches_tracked"]
    assert "2 and 0 more batch norms are trained: each of 2 ranks" in caplog.text


class Layer(nn.Module):
    """A layer of a model of convolutions."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner


@pytest.mark.parametrize("micro_batch", [None, 3])
@pytest.mark.parametrize("every", [1, 2, 100])
def test_recomputed_blocks_give_the_same_bits(every: int, micro_batch: int | None) -> None:
    plain, recomputed = step(made(), micro_batch), step(made(recompute_every=every), micro_batch)
    assert plain.keys() == recomputed.keys()
    assert all(torch.equal(recomputed[name], tensor) for name, tensor in plain.items())


def failed_import(path: Path) -> InductorError:
    path.touch()
    return InductorError(ImportError(f"{path}: file too short"), None)


def test_a_file_that_a_killed_compiler_left_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    path = tmp_path / "kernel.main.so"
    sentence = f"^{path} of torch's compiler cache was left unfinished .* start the run again$"
    with pytest.raises(CocaError, match=sentence), compilation():
        raise failed_import(path)
    assert not path.exists()


def test_no_other_library_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "libother.so"
    with pytest.raises(ConfigError, match="a block cannot be compiled"), compilation():
        raise failed_import(path)
    assert path.exists()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Results]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    return on_ranks(2, folder, tiny_blocks.steps_with_and_without, limit_s=LIMIT_S)


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.timeout(LIMIT_S)
@pytest.mark.parametrize("case", [f"{kind}/{micro_batch}" for kind, micro_batch in CASES])
def test_compiled_blocks_have_the_loss_and_gradients_of_plain_blocks(
    ranks: list[dict[str, Results]], case: str
) -> None:
    for own in ranks:
        plain, compiled = own[f"{case}/plain"], own[f"{case}/compiled"]
        # The names of parameters are those of the plain model.
        assert plain.keys() == compiled.keys()
        for name, tensor in plain.items():
            # 3e-6 was the most seen, in the gradient of a query bias, which is a small difference.
            error = (compiled[name] - tensor).norm()
            assert error <= 2e-5 * tensor.norm(), name
        # An evaluation is not compiled.
        assert torch.equal(compiled["evaluated"], plain["evaluated"])


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.timeout(LIMIT_S)
def test_a_compiled_step_does_not_depend_on_the_batch_that_was_compiled_first(
    ranks: list[dict[str, Results]],
) -> None:
    for own in ranks:
        first = own["ddp/None/compiled"]
        assert all(torch.equal(first[name], tensor) for name, tensor in own["resumed"].items())


@pytest.mark.slow
@pytest.mark.distributed
@pytest.mark.timeout(LIMIT_S)
def test_a_block_that_cannot_be_compiled_is_one_sentence(tmp_path: Path) -> None:
    (error,) = on_ranks(1, tmp_path, tiny_blocks.step_without_a_compiler)
    assert error.startswith("ConfigError: train.compile is true, but a block cannot be compiled: ")
    assert error.endswith("set train.compile to false")
    assert "C++ compiler" in error
    assert "\n" not in error
