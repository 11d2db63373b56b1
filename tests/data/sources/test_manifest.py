import datetime
import decimal
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from coca.core.errors import ConfigError, DataError
from coca.data.sample import Sample
from coca.data.sources.factory import open_source
from coca.data.sources.source import Source
from coca.data.sources.table_source import ManifestConfig
from tiny_data import image_bytes

ROWS = [
    {"image": "pics/0.png", "caption": "a red, shiny car", "label": "car", "width": 10},
    {"image": "pics/1.png", "caption": 'a "small" cat', "label": "cat", "width": 20},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pics").mkdir()
    for number in range(2):
        (tmp_path / "pics" / f"{number}.png").write_bytes(image_bytes(number))
    return tmp_path


def open_manifest(path: Path, **settings: Any) -> Source:
    return open_source(ManifestConfig(path=str(path), **settings))


def write_table(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / name
    if path.suffix == ".parquet":
        arrow = pytest.importorskip("pyarrow")
        parquet = pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        import csv

        delimiter = "\t" if "tab" in name or path.suffix == ".tsv" else ","
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("name", ["m.jsonl", "m.csv", "m.tsv", "by_tab.csv", "m.parquet"])
def test_every_kind_of_table_gives_the_same_samples(folder: Path, name: str) -> None:
    source = open_manifest(write_table(folder, name, ROWS))
    samples = [source.read(row) for row in range(len(source))]
    assert [(s.key, s.image, s.captions, s.labels) for s in samples] == [
        ("pics/0.png", image_bytes(0), ("a red, shiny car",), ("car",)),
        ("pics/1.png", image_bytes(1), ('a "small" cat',), ("cat",)),
    ]
    assert [str(s.metadata["width"]) for s in samples] == ["10", "20"]
    assert [source.key(0), source.key(1)] == ["pics/0.png", "pics/1.png"]
    assert pickle.loads(pickle.dumps(source)).read(1) == samples[1]


def test_columns_of_other_names_are_given_by_the_config(folder: Path) -> None:
    rows = [{"where": "pics/0.png", "alt": "one", "kind": "car", "caption": "not this"}]
    source = open_manifest(
        write_table(folder, "m.csv", rows),
        image_column="where",
        caption_column="alt",
        label_column="kind",
    )
    expected = Sample("pics/0.png", image_bytes(0), ("one",), ("car",), {"caption": "not this"})
    assert source.read(0) == expected


@pytest.mark.parametrize("wrapped", [False, True])
def test_parquet_may_hold_the_images_themselves(folder: Path, wrapped: bool) -> None:
    image = {"bytes": image_bytes(5), "path": None} if wrapped else image_bytes(5)
    source = open_manifest(write_table(folder, "m.parquet", [{"image": image, "text": "one"}]))
    assert source.read(0) == Sample("0", image_bytes(5), ("one",))
    assert source.key(0) == "0"


def test_parquet_gives_what_json_holds(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("pyarrow")
    berlin = datetime.timezone(datetime.timedelta(hours=2))
    row = {
        "image": "pics/0.png",
        "label": datetime.date(2024, 5, 31),
        "day": datetime.date(2024, 5, 31),
        "time": datetime.datetime(2024, 5, 31, 18, 30, tzinfo=berlin),
        "hour": datetime.time(18, 30),
        "length": datetime.timedelta(seconds=1.5),
        "price": decimal.Decimal("12.30"),
        "count": decimal.Decimal("12.00"),
        "missing": float("nan"),
        "inside": {"days": [datetime.date(2024, 5, 31), None]},
        "small": {"bytes": image_bytes(1), "path": "small.png"},
    }
    source = open_manifest(write_table(folder, "m.parquet", [row]))
    sample = source.read(0)
    assert sample.labels == ("2024-05-31",)
    assert dict(sample.metadata) == {
        "day": "2024-05-31",
        "time": "2024-05-31T18:30:00+02:00",
        "hour": "18:30:00",
        "length": 1.5,
        "price": 12.3,
        "count": 12,
        "missing": None,
        "inside": {"days": ["2024-05-31", None]},
    }
    assert json.dumps(sample.metadata, allow_nan=False)
    assert "m.parquet contains bytes in the column small; they are left out" in caplog.text


def test_nanoseconds_are_cut_to_microseconds(folder: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    when = pa.array([1_717_180_200_123_456_789], pa.timestamp("ns", "UTC"))
    took = pa.array([1_500_000_001], pa.duration("ns"))
    rows = pa.table({"image": ["pics/0.png"], "time": when, "length": took})
    pq.write_table(rows, folder / "m.parquet")
    sample = open_manifest(folder / "m.parquet").read(0)
    assert sample.metadata == {"time": "2024-05-31T18:30:00.123456+00:00", "length": 1.5}


@pytest.mark.parametrize(
    ("texts", "values"),
    [
        (["2018", "-3", ""], [2018, -3, None]),
        (["1", "0.5", "-.5e-3"], [1.0, 0.5, -0.0005]),
        (["12.30", "1.", "7"], [12.3, 1.0, 7.0]),
        (["999999999999999"], [999999999999999]),
        (["007", "8"], ["007", "8"]),
        (["2018", "n/a"], ["2018", "n/a"]),
        (["1234567890123456"], ["1234567890123456"]),
        (["1234567890123456", "0.5"], ["1234567890123456", "0.5"]),
        (["+49", "50"], ["+49", "50"]),
        (["1e999"], ["1e999"]),
        (["nan", "1"], ["nan", "1"]),
        (["1_000"], ["1_000"]),
        (["\u0663"], ["\u0663"]),
        (["", "", "x"], ["", "", "x"]),
        ([" 1"], [" 1"]),
        (["true"], ["true"]),
    ],
)
def test_a_column_of_a_csv_holds_numbers_if_all_of_its_values_are(
    folder: Path, texts: list[str], values: list[Any]
) -> None:
    rows = [{"image": "pics/0.png", "it": text} for text in texts]
    source = open_manifest(write_table(folder, "m.csv", rows))
    found = [source.read(row).metadata["it"] for row in range(len(source))]
    assert found == values
    assert [type(one) for one in found] == [type(one) for one in values]


def test_columns_of_a_csv_that_have_a_meaning_stay_text(folder: Path) -> None:
    row = {"id": "7", "image": "pics/0.png", "caption": "1.50", "label": "3", "question": "2"}
    sample = open_manifest(write_table(folder, "m.csv", [row | {"answer": "4.0"}])).read(0)
    assert sample == Sample("7", image_bytes(0), ("1.50",), ("3",), text="2", answers=("4.0",))


def test_times_of_a_csv_are_seconds_and_days_stay_days(folder: Path) -> None:
    for name, times, values in (
        ("s.csv", ["1717180200", "20240531"], [1717180200, 20240531]),
        ("d.csv", ["20240531", "20231201"], ["20240531", "20231201"]),
    ):
        rows = [{"image": "pics/0.png", "time": time} for time in times]
        source = open_manifest(write_table(folder, name, rows))
        assert [source.read(row).metadata["time"] for row in range(2)] == values


def test_the_whole_table_determines_the_kind_of_a_column_for_any_rows(folder: Path) -> None:
    rows = [
        {"image": "pics/0.png", "it": "1", "split": "a"},
        {"image": "pics/1.png", "it": "x", "split": "b"},
    ]
    path = write_table(folder, "m.csv", rows)
    source = open_manifest(path, where={"split": "a"})
    assert source.read(0).metadata["it"] == "1"
    etag = source.etag(0)
    write_table(folder, "m.csv", [rows[0], rows[1] | {"it": "2"}])
    source = open_manifest(path, where={"it": 1})
    assert source.read(0).metadata["it"] == 1
    # The sample has changed, though its row has not.
    assert source.etag(0) != etag


@pytest.mark.parametrize("name", ["m.csv", "m.parquet"])
def test_two_columns_of_one_name_are_refused(folder: Path, name: str) -> None:
    if name == "m.csv":
        (folder / name).write_text("image,year,year\npics/0.png,1,2\n")
    else:
        pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        columns = [pa.array(["pics/0.png"]), pa.array([1]), pa.array([2])]
        pq.write_table(pa.table(columns, names=["image", "year", "year"]), folder / name)
    with pytest.raises(DataError, match=r"m\.\w+ has two columns called 'year'"):
        open_manifest(folder / name)


def test_a_value_of_parquet_that_python_cannot_hold_makes_a_bad_row(folder: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    ends = pa.py_buffer(np.asarray([0, 1, 2], np.int32))
    values = [
        pa.Array.from_buffers(pa.string(), 2, [None, ends, pa.py_buffer(b"\xffa")]),
        pa.array([2**62, 0], pa.timestamp("us")),
        pa.array([2**31 - 1, 0], pa.date32()),
        pa.array([2**60, 0], pa.duration("s")),
        pa.Array.from_buffers(
            pa.time64("us"), 2, [None, pa.py_buffer(np.asarray([2**60, 0], np.int64))]
        ),
    ]
    for column in values:
        rows = pa.table({"image": ["pics/0.png", "pics/1.png"], "odd": column})
        pq.write_table(rows, folder / "m.parquet")
        source = open_manifest(folder / "m.parquet")
        with pytest.raises(DataError, match=r"row 0 of .*m\.parquet has a odd that") as caught:
            source.read(0)
        assert caught.value.reason == "bad_record"
        assert source.read(1).image == image_bytes(1)


def test_json_lines_may_have_blank_lines_and_windows_breaks(folder: Path) -> None:
    lines = [json.dumps(row) for row in ROWS]
    for text in ("\n\n".join(lines), "\r\n".join([*lines, ""]), "\n".join([*lines, " ", ""])):
        (folder / "m.jsonl").write_text(text, newline="")
        source = open_manifest(folder / "m.jsonl")
        assert [source.read(row).labels for row in range(len(source))] == [("car",), ("cat",)]


def test_a_bom_before_the_header_is_no_part_of_a_name(folder: Path) -> None:
    (folder / "m.csv").write_text("image,caption\npics/0.png,one\n", encoding="utf-8-sig")
    assert open_manifest(folder / "m.csv").read(0).captions == ("one",)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "bad_record"),
        ('{"caption": "one"}', "no_image"),
        ('{"image": "pics/9.png"}', "missing"),
        ('{"image": "pics"}', "unreadable"),
        ('{"image": "pics/0.png", "caption": {}, "text": 3.5}', "bad_record"),
    ],
)
def test_a_bad_row_is_a_bad_sample_and_leaves_the_others(
    folder: Path, line: str, reason: str
) -> None:
    path = folder / "m.jsonl"
    path.write_text(f"{json.dumps(ROWS[0])}\n{line}\n{json.dumps(ROWS[1])}\n")
    source = open_manifest(path)
    with pytest.raises(DataError) as caught:
        source.read(1)
    assert caught.value.reason == reason
    assert isinstance(source.key(1), str)
    assert source.read(2).labels == ("cat",)


def test_a_csv_row_with_too_few_values_is_a_bad_sample(folder: Path) -> None:
    (folder / "m.csv").write_text("image,caption\npics/0.png\n")
    with pytest.raises(DataError, match="1 values for 2 columns"):
        open_manifest(folder / "m.csv").read(0)


def test_a_table_without_images_is_reported_before_the_run(folder: Path) -> None:
    path = write_table(folder, "m.csv", [{"shot": "pics/0.png", "caption": "one"}])
    with pytest.raises(ConfigError, match=r"shot, caption, but none of .*set image_column"):
        open_manifest(path)


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("m.xlsx", b"x", r"a manifest is \.jsonl"),
        ("m", b"x", "no suffix"),
        ("m.csv", b'image\n"open', "is not CSV"),
        ("m.csv", b"image\n\xff", "not UTF-8"),
        ("m.parquet", b"PAR1 not really", "is not a Parquet file"),
        ("m.jsonl", b"", "has no sample"),
        ("m.csv", b"", "has no sample"),
    ],
)
def test_a_damaged_table_is_reported_in_a_sentence(
    folder: Path, name: str, content: bytes, complaint: str
) -> None:
    if name.endswith(".parquet"):
        pytest.importorskip("pyarrow")
    (folder / name).write_bytes(content)
    with pytest.raises(DataError, match=complaint):
        open_manifest(folder / name)
