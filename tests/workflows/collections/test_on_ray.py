"""What workers of Ray ask for; their work is tested in `test_embed_shards.py`."""

import pytest

from coca.core.errors import ConfigError
from coca.workflows.collections.on_ray import embed_shards_on_ray, share_of_each


@pytest.mark.parametrize(
    ("workers", "cluster", "device", "share"),
    [
        (4, {"CPU": 16.0}, None, {"num_cpus": 1.0}),
        (4, {"CPU": 16.0, "GPU": 4.0}, "cpu", {"num_cpus": 1.0}),
        (32, {"CPU": 16.0}, None, {"num_cpus": 0.5}),
        (1, {}, None, {"num_cpus": 1.0}),
        (4, {"CPU": 16.0, "GPU": 4.0}, None, {"num_gpus": 1.0, "num_cpus": 0}),
        (2, {"CPU": 1.0, "GPU": 4.0}, "cuda", {"num_gpus": 1.0, "num_cpus": 0}),
        (3, {"CPU": 16.0, "GPU": 2.0}, None, {"num_gpus": 0.5, "num_cpus": 0}),
    ],
)
def test_every_worker_gets_a_fraction_that_fits(
    workers: int, cluster: dict[str, float], device: str | None, share: dict[str, float]
) -> None:
    assert share_of_each(workers, cluster, device=device) == share


def test_a_device_that_ray_cannot_give_is_refused() -> None:
    with pytest.raises(ConfigError, match="knows no accelerator"):
        share_of_each(1, {"CPU": 2.0}, device="cuda")
    with pytest.raises(ConfigError, match="must be cuda, cpu"):
        next(embed_shards_on_ray([], "nano", "out", workers=1, device="cuda:1"))
