from pathlib import Path

from PIL import Image

from tiny_cli import Run, RunJson
from tiny_model import write_detector


def test_objects_are_reported_and_drawn(run: Run, run_json: RunJson, images: list[str]) -> None:
    write_detector(Path("detector"))
    options = ("--model", "detector", "--threshold", "0.1", "--device", "cpu")
    output = run_json("detect", *images, *options, "--out", "drawn")
    assert [one["path"] for one in output] == images
    one = output[0]["objects"][0]
    assert one.keys() == {"label", "score", "box"}
    assert 0.1 <= one["score"] <= 1
    assert len(list(Path("drawn").iterdir())) == len(images)
    with Image.open(next(Path("drawn").iterdir())) as made:
        assert min(made.size) >= 384
    printed = run("detect", images[0], *options).stdout
    assert one["label"] in printed


def test_a_bad_image_does_not_stop_the_others(run: Run, images: list[str]) -> None:
    write_detector(Path("detector"))
    Path("broken.png").write_bytes(b"no image")
    ended = run("detect", "broken.png", images[0], "--model", "detector", code=1)
    assert "broken.png" in ended.stderr
    assert images[0] in ended.stdout


def test_no_drawing_replaces_another(run: Run, images: list[str]) -> None:
    write_detector(Path("detector"))
    for name in ("one/a.png", "one/a-2.png", "two/a.png"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_bytes(Path(images[0]).read_bytes())
    options = ("--model", "detector", "--device", "cpu", "--out", "drawn")
    run("detect", "one/a.png", "one/a-2.png", "two/a.png", *options)
    assert sorted(path.name for path in Path("drawn").iterdir()) == ["a-2.png", "a-3.png", "a.png"]
