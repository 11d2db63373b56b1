import zipfile
from pathlib import Path

import pytest

import coca
from coca.predict.torch_loading import load_coca
from tiny_cli import Run, RunJson


def decoding(*options: str) -> list[str]:
    return [word for option in options for word in ("--decoding", option)]


def test_captions_have_a_text_and_a_logarithmic_score(
    run_json: RunJson, model: str, images: list[str]
) -> None:
    output = run_json("caption", *images, "-m", model, "--decoding", "max_new_tokens=4")
    assert [entry["path"] for entry in output] == images
    for entry in output:
        (caption,) = entry["captions"]
        assert caption.keys() == {
            *("text", "score", "rank_score", "token_ids", "log_probabilities"),
            *("certainty", "noun"),
        }
        assert caption["score"] == pytest.approx(sum(caption["log_probabilities"]))
        assert len(caption["token_ids"]) <= 4


def test_options_reach_the_model(run_json: RunJson, model: str, images: list[str]) -> None:
    asked = decoding(
        *("num_return_sequences=3", "temperature=1.3", "top_k=50", "seed=5", "words=listed"),
        *("repetition_penalty=1.2", "no_repeat_ngram_size=2", "min_new_tokens=2"),
    )
    output = run_json("caption", *images, "-m", model, *asked)
    wanted = load_coca(model).caption(
        images,
        num_return_sequences=3,
        temperature=1.3,
        top_k=50,
        seed=5,
        repetition_penalty=1.2,
        no_repeat_ngram_size=2,
        min_new_tokens=2,
        words="listed",
    )
    for entry, best in zip(output, wanted, strict=True):
        texts = [one.text for one in (best, *best.others)]
        assert [one["text"] for one in entry["captions"]] == texts


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (decoding("num_beams=2", "temperature=1"), "use either"),
        (decoding("num_beams=1", "num_return_sequences=2"), "cannot return 2 captions"),
        (decoding("words=soon"), "soon"),
        (decoding("num_beams=0"), "num_beams must be a whole number of at least 1 or null, got 0"),
        (decoding("beams=3"), "beams"),
    ],
)
def test_options_that_make_no_sense_are_a_wrong_call(
    run: Run, model: str, images: list[str], options: list[str], sentence: str
) -> None:
    assert sentence in run("caption", *images, "-m", model, *options, code=2).stderr


def test_an_uncertain_caption_gives_way_unless_all_are_asked_for(run: Run, tmp_path: Path) -> None:
    with zipfile.ZipFile(Path(coca.__file__).parent / "workflows/demo/photos.zip") as archive:
        (member,) = (it for it in archive.namelist() if "38287d2e5a4a9a57" in it)
        photo = archive.extract(member, tmp_path)
    shown = run("caption", photo, "-m", "everyday")
    assert "meal" in shown.stdout
    assert "carbonara" not in shown.stdout
    assert "1 of 1 captions are less than 85% certain; --all prints them" in shown.stderr
    assert "carbonara" in run("caption", photo, "-m", "everyday", "--all").stdout
    asked = run("caption", photo, "-m", "everyday", "--prompt", "a photo of")
    assert "a photo of" in asked.stdout
