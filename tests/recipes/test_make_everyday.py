import json
import subprocess
import sys
from pathlib import Path

import pytest

import make_everyday
from make_everyday import PHOTOS, Step, data_steps, main, stages, take


def writing(path: Path, *, fail: bool = False) -> tuple[str, ...]:
    """A command that appends a line to a file, and fails afterwards if asked to."""
    code = f"open({str(path)!r}, 'a').write('x'); raise SystemExit({int(fail)})"
    return (sys.executable, "-c", code)


def test_a_finished_step_is_not_taken_again(tmp_path: Path) -> None:
    step = Step(tmp_path / "made", writing(tmp_path / "made"))
    for _ in range(2):
        take([step], tmp_path / "record.json")
    assert step.made.read_text() == "x"
    noted = json.loads((tmp_path / "record.json").read_text())[str(step.made)]
    assert noted["command"] == list(step.command[1:])
    assert noted["seconds"] >= 0
    assert {"code", "versions", "machine", "started"} <= noted.keys()


@pytest.mark.parametrize(("resumes", "after"), [(False, "x"), (True, "xx")])
def test_what_an_interrupted_step_wrote_is_kept_only_if_it_goes_on(
    tmp_path: Path, resumes: bool, after: str
) -> None:
    made, notes = tmp_path / "made", tmp_path / "record.json"
    with pytest.raises(subprocess.CalledProcessError):
        take([Step(made, writing(made, fail=True), resumes)], notes)
    take([Step(made, writing(made), resumes)], notes)
    assert made.read_text() == after


@pytest.mark.parametrize("done", [3, 4])
def test_a_training_that_a_signal_ended_early_is_not_finished(tmp_path: Path, done: int) -> None:
    made, notes, following = tmp_path / "run" / "model", tmp_path / "notes", tmp_path / "next"
    made.mkdir(parents=True)
    (made.parent / "recipe.json").write_text(json.dumps({"train": {"steps": 4}}))
    (made / "training.json").write_text(json.dumps({"step": done}))
    steps = [
        Step(made, writing(tmp_path / "log"), resumes=True),
        Step(following, writing(following)),
    ]
    if done == 4:
        take(steps, notes)
    else:
        with pytest.raises(SystemExit, match="stopped after step 3 of 4; the same command goes on"):
            take(steps, notes)
    assert following.exists() is notes.exists() is (done == 4)


def test_every_step_writes_something_of_its_own_by_a_file_that_exists(tmp_path: Path) -> None:
    steps = [
        *data_steps(tmp_path, tmp_path),
        *stages(tmp_path, tmp_path / "out", seed=3, threads=1),
    ]
    assert len({step.made for step in steps}) == len(steps)
    for step in steps:
        files = [it for it in step.command if it.endswith((".py", ".yaml"))]
        assert all(Path(it).is_file() for it in files)
    assert any("seed=3" in step.command for step in steps)


def test_missing_photos_are_all_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(make_everyday, "CLIPART", tmp_path)
    with pytest.raises(SystemExit):
        main(["--photos", str(tmp_path), "--data", str(tmp_path / "data")])
    reported = capsys.readouterr().err
    assert all(name in reported for name in PHOTOS)
    assert not (tmp_path / "data").exists()
