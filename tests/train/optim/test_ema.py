from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor, nn

from coca.model.checkpoint import step_folder
from coca.train.optim.ema import Ema, EmaConfig
from tiny_ranks import on_ranks
from tiny_run import newest, same, tiny_trainer, weights
from tiny_shards import PLAIN, STEPS, average_in_pieces, drift, tiny_stack


@pytest.mark.parametrize("config", [PLAIN, EmaConfig(decay=0.9), EmaConfig(decay=0.0)])
def test_the_average_is_that_of_its_equation(config: EmaConfig) -> None:
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    ema = Ema(model, config)
    expected = model.weight.detach().double()
    for step in range(1, 40):
        drift(model, step)
        ema.update(step)
        kept = min(config.decay, (1 + step) / (10 + step)) if config.warmup else config.decay
        expected = kept * expected + (1 - kept) * model.weight.detach().double()
    torch.testing.assert_close(ema.tensors()["weight"].double(), expected, rtol=1e-5, atol=1e-6)


@given(decay=st.floats(0, 0.99999), warmup=st.booleans())
def test_memory_grows_up_to_its_limit_and_never_shrinks(decay: float, warmup: bool) -> None:
    config = EmaConfig(decay=decay, warmup=warmup)
    kept = [config.decay_at(update) for update in (1, 2, 10, 1000, 10**7)]
    assert kept == sorted(kept)
    assert kept[-1] == decay
    assert kept[0] == (min(decay, 2 / 11) if warmup else decay)


def test_statistics_of_batch_norms_are_averaged_with_the_weights() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    statistics = dict(model.named_buffers())
    del statistics["1.num_batches_tracked"]
    ema = Ema(model, EmaConfig(decay=0.5, warmup=False))
    expected = {name: buffer.clone() for name, buffer in statistics.items()}
    torch.manual_seed(0)
    for step in range(1, 4):
        model(torch.randn(8, 3))
        ema.update(step)
        expected = {name: (mean + statistics[name]) / 2 for name, mean in expected.items()}
    last = {name: buffer.clone() for name, buffer in statistics.items()}
    with ema.applied():
        torch.testing.assert_close(statistics, expected)
    torch.testing.assert_close(statistics, last)
    assert ema.tensors().keys() == model.state_dict().keys() - {"1.num_batches_tracked"}


def test_weights_that_stay_are_their_own_average() -> None:
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    ema = Ema(model, PLAIN)
    for step in range(1, 5):
        ema.update(step)
    assert torch.equal(ema.tensors()["bias"], model.bias)


def test_an_average_of_half_precision_weights_is_kept_whole() -> None:
    model = nn.Linear(3, 2).bfloat16()
    ema = Ema(model, EmaConfig(decay=0.999, warmup=False))
    before = ema.tensors()["weight"].clone()
    with torch.no_grad():
        model.weight.add_(1.0)
    ema.update(1)
    change = (ema.tensors()["weight"] - before).mean()
    # A bf16 number near 1 has steps of 1/128, in which this would be lost.
    assert float(change) == pytest.approx(0.001, rel=0.02)


def kept(run_folder: Path) -> dict[str, Tensor]:
    return newest(run_folder).group("ema")


def test_a_run_averages_all_updates_and_keeps_its_own_weights(tmp_path: Path) -> None:
    averaged = tiny_trainer(tmp_path / "averaged", steps=3, ema=PLAIN, save_every=1, keep=3)
    start = weights(averaged)
    averaged.fit()
    plain = tiny_trainer(tmp_path / "plain", steps=3, save_every=1, keep=3)
    plain.fit()
    assert same(weights(averaged), weights(plain))
    expected = start
    for number in (1, 2, 3):
        path = step_folder(tmp_path / "plain", number) / "model.safetensors"
        new = load_file(path)
        expected = {name: 0.9 * expected[name] + 0.1 * new[name] for name in expected}
    for name, average in averaged.weights().items():
        torch.testing.assert_close(average, expected[name], rtol=1e-5, atol=1e-6)
    assert same(kept(tmp_path / "averaged"), averaged.weights())
    assert kept(tmp_path / "plain") == {}


def test_averages_that_a_run_did_not_keep_before_begin_where_it_goes_on(tmp_path: Path) -> None:
    first = tiny_trainer(tmp_path, steps=5)
    first.fit()
    rest = tiny_trainer(tmp_path, steps=5, ema=PLAIN)
    rest.fit()
    assert same(rest.weights(), weights(first))


@pytest.mark.distributed
def test_ranks_that_share_a_model_average_as_one(tmp_path: Path) -> None:
    model = tiny_stack()
    alone = Ema(model, PLAIN)
    for step in range(1, STEPS + 1):
        drift(model, step)
        alone.update(step)
    for result in on_ranks(2, tmp_path, average_in_pieces):
        assert same(alone.tensors(), result)
