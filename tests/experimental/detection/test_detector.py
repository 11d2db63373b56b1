import json
from pathlib import Path

import pytest
import torch
from torchvision.models.detection.image_list import ImageList

from coca.core.errors import ConfigError, ModelError
from coca.experimental.detection.detector import (
    SCALES,
    Detector,
    DetectorConfig,
    FeaturePyramid,
    load_detector,
    save_detector,
)
from coca.model.coca import CoCa
from coca.model.encoders.vit import ViTConfig
from tiny import tiny_config

CONFIG = DetectorConfig(classes=("cat", "dog"), channels=32, scales=(2.0, 1.0))


def tiny_detector(seed: int = 0) -> Detector:
    torch.manual_seed(seed)
    return Detector(CoCa(tiny_config()), CONFIG)


def paper_like(patch_size: int, patches: int) -> Detector:
    """Build a detector with all maps on `patches` x `patches` patches of this size."""
    image = ViTConfig(
        image_size=patch_size * patches,
        patch_size=patch_size,
        width=32,
        layers=1,
        heads=2,
        mlp_width=32,
    )
    torch.manual_seed(0)
    config = DetectorConfig(classes=("cat",), channels=32)
    return Detector(CoCa(tiny_config(image=image)), config)


@pytest.mark.parametrize(("patch_size", "patches"), [(14, 16), (16, 8), (18, 16), (32, 7)])
def test_a_location_is_where_the_pixels_of_its_cell_are(patch_size: int, patches: int) -> None:
    maps, centres = [], []
    for scale in SCALES:
        # The remainder of an odd grid is in no cell of the smallest map.
        cells = int(patches * scale)
        maps.append(torch.zeros(1, 32, cells, cells))
        # Reference: pixels are split into eighths, and those of a cell are averaged.
        parts = cells * patch_size / scale * 8
        along = ((torch.arange(parts) + 0.5) / 8).view(cells, -1).mean(dim=1)
        row, column = torch.meshgrid(along, along, indexing="ij")
        centres.append(torch.stack((column, row), dim=2).flatten(0, 1))
    side = patch_size * patches
    images = ImageList(torch.zeros(1, 3, side, side), [(side, side)])
    (found,) = paper_like(patch_size, patches).anchor_generator(images, maps)
    torch.testing.assert_close((found[:, :2] + found[:, 2:]) / 2, torch.cat(centres))
    widths = (found[:, 2:] - found[:, :2]).unique()
    assert widths.tolist() == sorted(patch_size / scale for scale in SCALES)


def test_a_projection_before_a_norm_has_no_bias() -> None:
    weights = FeaturePyramid(20, 8).state_dict()
    projections = [name for name, it in weights.items() if it.ndim == 4 and len(it) == 8]
    assert len(projections) == 2 * len(SCALES)
    assert not {name.replace("weight", "bias") for name in projections} & weights.keys()


def test_saved_and_loaded_it_predicts_the_same(tmp_path: Path) -> None:
    detector = tiny_detector().eval()
    save_detector(tmp_path, detector)
    captioner = CoCa(tiny_config())
    captioner.image_encoder.load_state_dict(detector.backbone.image_encoder.state_dict())
    again = load_detector(tmp_path, captioner)
    assert again.config == CONFIG
    with torch.inference_mode():
        image = torch.randn(3, 16, 16)
        for name, value in detector([image])[0].items():
            assert torch.equal(value, again([image])[0][name])


def test_a_folder_without_a_detector_and_one_of_another_shape_raise(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no detector"):
        load_detector(tmp_path, CoCa(tiny_config()))
    save_detector(tmp_path, tiny_detector())
    settings = (tmp_path / "detector.json").read_text()
    (tmp_path / "detector.json").write_text(settings.replace('"cat"', '"cat", "cow"'))
    with pytest.raises(ModelError, match="does not fit"):
        load_detector(tmp_path, CoCa(tiny_config()))
    (tmp_path / "detector.json").write_text(json.dumps(json.loads(settings)["detector"]))
    with pytest.raises(
        ModelError, match=r"has format_version None; .* reads 2: train the detector again"
    ):
        load_detector(tmp_path, CoCa(tiny_config()))
    (tmp_path / "detector.json").write_text("{")
    with pytest.raises(ModelError, match="JSON"):
        load_detector(tmp_path, CoCa(tiny_config()))


def test_settings_that_no_detector_can_have_are_refused() -> None:
    with pytest.raises(ConfigError, match="different names"):
        DetectorConfig(classes=("cat", "cat"))
    with pytest.raises(ConfigError, match="multiple of 32"):
        DetectorConfig(classes=("cat",), channels=40)
    with pytest.raises(ConfigError, match="descending"):
        DetectorConfig(classes=("cat",), scales=(1.0, 2.0))
    with pytest.raises(ConfigError, match="something to find"):
        Detector(CoCa(tiny_config()), DetectorConfig(channels=32))
