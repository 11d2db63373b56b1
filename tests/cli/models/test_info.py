from pathlib import Path
from typing import Any

import pytest

import coca
from coca.model.coca import CoCa
from coca.model.pretrained import save_model
from coca.predict.tower import TowerConfig
from tiny import tiny_config
from tiny_cli import Run, RunJson
from tiny_data import tiny_processor
from tiny_image_text import write_transformers


def test_a_preset_is_described_without_its_weights(run_json: RunJson) -> None:
    output = run_json("info", "coca_base")
    counts = output["parameters"]
    assert counts["total_without_poolers"] == pytest.approx(382.8e6, abs=0.05e6)
    parts = counts.keys() - {"total", "total_without_poolers"}
    assert sum(counts[part] for part in parts) == counts["total"]
    assert output["config"]["image"]["patch_size"] == 18


def test_a_folder_and_a_run_are_described_alike(
    run: Run, run_json: RunJson, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = run_json("info", model)
    assert output["config"]["embed_dim"] == 24
    assert run_json("info", str(Path(model).parent)) == output
    monkeypatch.setenv("COCA_MODEL", model)
    assert run_json("info") == output
    assert f"{output['parameters']['total']:,}" in run("info", model).stdout


def test_an_unknown_model_is_reported_with_the_nearest_preset(run: Run) -> None:
    assert "did you mean 'coca_base'?" in run("info", "coca_bass", code=2).stderr


def test_a_folder_without_a_model_is_a_failure(run: Run, cwd: Path) -> None:
    assert "not a model folder" in run("info", str(cwd), code=1).stderr
    assert "not a model folder" in run("embed", "-t", "x", "-m", str(cwd), code=1).stderr


@pytest.mark.parametrize("family", ["siglip", "siglip2"])
def test_an_image_text_model_is_described(
    run: Run, run_json: RunJson, cwd: Path, family: str
) -> None:
    transformers: Any = pytest.importorskip("transformers")
    folder = write_transformers(cwd / family, family)
    loaded = coca.load(folder, device="cpu")
    output = run_json("info", str(folder))
    counts = output["parameters"]
    assert counts["image_encoder"] + counts["text_encoder"] == counts["total"]
    assert counts["total"] == transformers.AutoModel.from_pretrained(folder).num_parameters()
    assert output["library"] == {"name": "transformers", "version": transformers.__version__}
    assert output["bytes"] == sum(
        path.stat().st_size for path in folder.iterdir() if path.suffix in (".json", ".safetensors")
    )
    assert output["fingerprint"] == loaded.fingerprint
    assert (output["has_decoder"], output["embed_dim"]) == (False, loaded.embed_dim)
    assert output["image_size"] == (32 if family == "siglip" else None)
    text = " ".join(run("info", str(folder)).stdout.split())
    assert "image-text model without a decoder, by transformers" in text
    assert loaded.fingerprint in text


def test_a_captioner_on_an_image_text_model_shows_both_parts(
    run: Run, run_json: RunJson, cwd: Path
) -> None:
    pytest.importorskip("transformers", reason="the extra transformers is not installed")
    tower = write_transformers(cwd / "tower", "siglip")
    image = TowerConfig(
        kind="hf", name=str(tower), image_size=32, patch_size=8, width=32, embeddings="tower"
    )
    model = CoCa(tiny_config(image=image.resolved(), embed_dim=32))
    save_model(cwd / "decoder", model)
    tiny_processor().save(cwd / "decoder")
    below, output = run_json("info", str(tower)), run_json("info", str(cwd / "decoder"))
    total = below["parameters"]["total"]
    assert output["tower"] == {"parameters": total, "fingerprint": below["fingerprint"]}
    assert output["parameters"]["total"] == sum(it.numel() for it in model.parameters())
    text = " ".join(run("info", str(cwd / "decoder")).stdout.split())
    assert f"captioner on the frozen {tower} ({total:,} parameters" in text
    assert "whose embeddings it keeps" in text
