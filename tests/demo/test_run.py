"""The demo itself, with a model for tests instead of the shipped one; then with training."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from coca.core.errors import CocaError, DataError, ModelError
from coca.demo import emoji, photos
from coca.demo import run as workflow
from coca.demo.own_images import demo_on_images
from coca.demo.run import (
    DRAWINGS,
    IMAGE_QUERIES,
    NAMED,
    PHOTO_QUERIES,
    TAKEN_OUT,
    DemoResult,
    demo,
    demo_from_scratch,
)
from coca.inference.loading import load
from coca.inference.predictor import Predictor
from coca.search.milvus.collection import Collection
from coca.search.mining.zero_shot import class_names
from coca.search.records import content_id
from tiny_model import write_model

RECIPE = Path(__file__).parents[2] / "recipes" / "pretrain" / "emoji.yaml"
QUICK = (
    "train.steps=6",
    "train.schedule.warmup=2",
    "train.log_every=2",
    "data.loader.batch_size=16",
    "data.loader.workers=0",
)


@pytest.fixture(scope="module", autouse=True)
def _fewer_concepts() -> Iterator[None]:
    """Every thirtieth and those that are searched for; to draw all would take a minute."""
    every, table = emoji._concepts, photos.read_table()[::10]

    def some() -> list[emoji._Concept]:
        wanted = IMAGE_QUERIES
        return [it for number, it in enumerate(every()) if number % 30 == 0 or it.code in wanted]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(emoji, "_concepts", some)
        patch.setattr(photos, "read_table", lambda: table)
        yield


@pytest.fixture(scope="module")
def log_lines() -> list[str]:
    return []


@pytest.fixture(scope="module")
def embedded() -> list[int]:
    """Numbers of images in the batches that the first demo embeds."""
    return []


@contextmanager
def counting(rows: list[int]) -> Iterator[None]:
    """Append the number of images of each batch that a demo embeds."""

    def counted(name: str) -> Predictor:
        predictor = load(name)
        encode = predictor.model.encode_image

        def encode_image(pixels: torch.Tensor) -> torch.Tensor:
            rows.append(len(pixels))
            return encode(pixels)

        patch.setattr(predictor.model, "encode_image", encode_image)
        return predictor

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workflow, "load", counted)
        yield


@pytest.fixture(scope="module")
def shown(
    tmp_path_factory: pytest.TempPathFactory, log_lines: list[str], embedded: list[int]
) -> DemoResult:
    folder = tmp_path_factory.mktemp("demo")
    model = write_model(tmp_path_factory.mktemp("model"))
    with counting(embedded):
        return demo(folder, model=model, log=log_lines.append)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, shown: DemoResult) -> DemoResult:
    folder = tmp_path_factory.mktemp("trained")
    # Drawing them takes as long as everything else.
    shutil.copytree(shown.folder / "shards", folder / "shards")
    return demo_from_scratch(folder, recipe=RECIPE, overrides=QUICK)


@pytest.mark.slow
def test_every_stage_logs_what_it_does_and_leaves_its_files(
    shown: DemoResult, log_lines: list[str]
) -> None:
    for stage in ("packing", "evaluating", "writing", "indexing", "captioning"):
        assert [line for line in log_lines if line.startswith(stage)]
    assert not any("training" in line and "no training" not in line for line in log_lines)
    for path in (shown.index, shown.report, shown.example):
        assert path.exists()
    assert load(shown.model).fingerprint in (shown.folder / "evaluation.json").read_text()


@pytest.mark.slow
def test_the_report_shows_scores_searches_and_captions_in_one_file(shown: DemoResult) -> None:
    page = shown.report.read_text()
    links = re.findall(r'(?:src|href)="([^"#]{5})', page)
    assert len(links) > 100
    assert set(links) == {"data:"}
    for words in (
        "pixels",
        "chance",
        "red car",
        "Food &amp; Drink",
        "word for word",
        "Captions of photos",
        "Searching photos",
        "boat on the water",
        "photo: ",
        "attention maps",
        "Recommended: like",
        "classes in Milvus",
        "its drawing deleted",
    ):
        assert words in page
    # Nothing was trained, so there are no curves.
    assert "<h2>Training</h2>" not in page


@pytest.mark.slow
def test_photos_are_indexed_with_their_credits_and_captions_of_the_model(shown: DemoResult) -> None:
    table = {photo.name: photo for photo in photos.read_table()}
    with Collection.open(str(shown.index)) as collection:
        assert collection.count() == len(table)
        assert collection.info.calibration
        for record in collection.get(collection.ids()).values():
            assert record.caption_source != "given"
            assert record.metadata["author"] == table[Path(record.path).name].author
            assert record.metadata["page"] == table[Path(record.path).name].page


@pytest.mark.slow
def test_the_report_leads_with_searches_of_photos(shown: DemoResult) -> None:
    page = shown.report.read_text()
    assert page.index("<h2>Searching photos</h2>") == page.index("<h2>")
    assert all(f"“{query}”" in page for query in PHOTO_QUERIES)


@pytest.mark.slow
def test_the_image_that_was_deleted_is_back_again(shown: DemoResult) -> None:
    code, _ = TAKEN_OUT
    id = content_id((shown.folder / "pictures" / "openmoji" / f"{code}.png").read_bytes())
    with Collection.open(str(shown.index), DRAWINGS) as collection:
        assert collection.get([id])[id].caption
    with Collection.open(str(shown.index), "names") as names:
        assert len(class_names(names)) == names.count() > 50


@pytest.mark.slow
def test_scores_come_with_chance_and_floor_with_and_without_flags(shown: DemoResult) -> None:
    scores = json.loads((shown.folder / "evaluation.json").read_text())["scores"]
    assert len(scores) == 8
    drawn = [it.metadata["flag"] for it in emoji.emoji_samples("twemoji")]
    assert scores["retrieval all"]["samples"] == len(drawn)
    assert scores["retrieval without flags"]["samples"] == len(drawn) - sum(drawn)
    # The model changes nothing about the pixels: this floor is a fact of the data.
    floor = scores["trimmed_pixel_floor without flags"]
    assert 0.1 < floor["text_to_image_recall@1"] < 0.6


@pytest.mark.slow
def test_a_second_demo_makes_nothing_again(shown: DemoResult) -> None:
    lines: list[str] = []
    rows: list[int] = []
    shards = sorted((shown.folder / "shards").rglob("*.tar"))
    times = [path.stat().st_mtime_ns for path in (*shards, shown.report)]
    with counting(rows):
        assert demo(shown.folder, model=shown.model, log=lines.append) == shown
    assert sum(rows) <= other_images()
    assert [path.stat().st_mtime_ns for path in (*shards, shown.report)] == times
    made = ("packing", "evaluating", "writing", "captioning")
    assert not any(line.startswith(made) for line in lines)


@pytest.mark.slow
def test_a_report_that_was_deleted_is_written_again_without_captioning(shown: DemoResult) -> None:
    lines: list[str] = []
    before = shown.report.read_text()
    shown.report.unlink()
    demo(shown.folder, model=shown.model, log=lines.append)
    assert "writing the report" in lines
    assert "captioning" not in lines
    assert shown.report.read_text() == before


def other_images() -> int:
    """Number of photos, images of queries, and images that are classified by class names."""
    return len(photos.read_table()) + len(IMAGE_QUERIES) + 2 * NAMED


@pytest.mark.slow
def test_each_drawing_is_embedded_once(shown: DemoResult, embedded: list[int]) -> None:
    drawings = len(list((shown.folder / "pictures" / "openmoji").glob("*.png")))
    assert drawings <= sum(embedded) <= drawings + other_images()


@pytest.mark.slow
def test_typed_queries_are_compared_with_the_names_alone(shown: DemoResult) -> None:
    scores = json.loads((shown.folder / "evaluation.json").read_text())["scores"]
    queries, search = scores["everyday queries"], scores["coca search"]
    assert queries["samples"] == search["samples"] > 0
    for k in (1, 5, 10):
        names = (f"{prefix}success@{k}" for prefix in ("", "chance_", "words_", "captions_"))
        assert all(0 <= queries[name] <= 1 for name in names)
        # Names and images together are no worse than chance.
        assert queries[f"chance_success@{k}"] <= search[f"success@{k}"]
    page = shown.report.read_text()
    for words in ("words of the names (BM25), no model", "vectors of the names, no image"):
        assert words in page
    assert "development set" in page


@pytest.mark.slow
def test_a_model_is_trained_first_and_shown_with_its_curves(trained: DemoResult) -> None:
    assert trained.model == str(trained.folder / "model")
    assert load(trained.model).embed_dim == 128
    page = trained.report.read_text()
    assert "<h2>Training</h2>" in page
    assert "trained from scratch on Twemoji" in page


@pytest.mark.slow
def test_a_second_demo_from_scratch_does_not_train(trained: DemoResult) -> None:
    lines: list[str] = []
    before = load(trained.model).fingerprint
    again = demo_from_scratch(trained.folder, recipe=RECIPE, overrides=QUICK, log=lines.append)
    assert again == trained
    assert load(trained.model).fingerprint == before
    assert not any("training" in line for line in lines)
    longer = (*QUICK, "train.steps=8")
    demo_from_scratch(trained.folder, recipe=RECIPE, overrides=longer, log=lines.append)
    assert [line for line in lines if line.startswith("training on twemoji: 8 steps")]
    # The collection of the earlier model is filled again.
    with Collection.open(str(trained.index)) as collection:
        assert collection.info.fingerprint == load(trained.model).fingerprint != before


def test_only_what_another_model_filled_is_forgotten(tmp_path: Path) -> None:
    model, other = (load(write_model(tmp_path / str(seed), seed=seed)) for seed in (0, 1))
    uri = tmp_path / "pictures.db"
    workflow.forget_other_model(uri, model)
    # Stopped before the collection was made.
    Collection.open(str(uri), "another", embed_dim=3, fingerprint="f", create=True).close()
    workflow.forget_other_model(uri, model)
    Collection.open(
        str(uri), embed_dim=model.embed_dim, fingerprint=model.fingerprint, create=True
    ).close()
    workflow.forget_other_model(uri, model)
    assert uri.exists()
    workflow.forget_other_model(uri, other)
    assert not uri.exists()


def test_training_away_from_the_project_reports_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(CocaError, match="from the project's folder"):
        demo_from_scratch(tmp_path, recipe=tmp_path / "nowhere.yaml")


def test_a_model_that_is_not_there_is_reported_before_anything_is_drawn(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model"):
        demo(tmp_path / "demo", model=tmp_path / "nothing")
    assert not (tmp_path / "demo").exists()


def test_the_recipe_learns_from_one_vendor_only() -> None:
    text = RECIPE.read_text()
    assert workflow.SEEN in text
    assert workflow.UNSEEN not in text


@pytest.mark.slow
def test_a_folder_of_ones_own_is_indexed_searched_and_captioned(
    shown: DemoResult, tmp_path: Path
) -> None:
    for path in sorted((shown.folder / "pictures" / "photos").glob("*.webp"))[:5]:
        shutil.copyfile(path, tmp_path / path.name)
    made = demo_on_images(tmp_path, tmp_path / "out", model=shown.model)
    page = made.report.read_text()
    assert "“a red car”" in page
    assert "5 of 5 images" in page
    with Collection.open(str(made.index)) as collection:
        assert collection.count() == 5


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    model = write_model(tmp_path / "model")
    with pytest.raises(DataError, match="has no readable image"):
        demo_on_images(tmp_path / "empty", tmp_path / "out", model=model)
