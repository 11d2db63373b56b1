"""Metadata of photos; `photos/make.sh` writes the files by exiftool, which reads them as well."""

import inspect
import io
import random
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from coca.core.errors import DataError
from coca.search.ingest.photo_metadata import (
    MAX_XMP_BYTES,
    PHOTO_FIELDS,
    Annotation,
    PhotoMetadata,
    read_header,
    read_xmp,
)
from coca.search.ingest.sources import read_annotation
from coca.search.records import MAX_BYTES, METADATA, storage_error

PHOTOS = Path(__file__).with_name("photos")

CARRIED: dict[str, Annotation] = {
    "canon.jpg": Annotation(
        metadata={
            "camera": "Canon EOS R5",
            "lens": "RF24-105mm F4 L IS USM",
            "exposure_s": 0.004,
            "f_number": 5.6,
            "focal_length": 70.0,
            "iso": 400,
            "flash": False,
            "orientation": 6,
            "latitude": 48.8583,
            "longitude": 2.2945,
            "altitude": 35.0,
            "utc_offset": 120,
        },
        time=1_689_352_205 + 120 * 60,
    ),
    "nikon.jpg": Annotation(
        "Früh am Strand",
        {
            "title": "Coogee",
            "camera": "NIKON Z 6_2",
            "lens": "NIKKOR Z 24-70mm f/4 S",
            "exposure_s": 2.5,
            "f_number": 11.0,
            "iso": 100,
            "flash": True,
            "latitude": -33.8688,
            "longitude": 151.2093,
            "altitude": -4.0,
            # From the satellites' clock: Sydney has summer time in December.
            "utc_offset": 660,
            "city": "Sydney",
            "country": "Australia",
        },
        ("beach", "sunrise"),
        time=1_640_289_600 + 660 * 60,
    ),
    "iphone.jpg": Annotation(
        metadata={
            "camera": "Apple iPhone 15 Pro",
            "lens": "iPhone 15 Pro back triple camera 6.765mm f/1.78",
            "exposure_s": 0.000833333333,
            "f_number": 1.78,
            "iso": 80,
            "latitude": 37.8199,
            "longitude": -122.4783,
            "utc_offset": -480,
        },
        time=1_709_279_999 - 480 * 60,
    ),
    "lightroom.jpg": Annotation(
        "Fishing boats at dawn",
        {
            "title": "Harbour",
            "people": ["Anna"],
            "rating": 4,
            "camera": "SONY ILCE-7M4",
            "lens": "FE 35mm F1.8",
            "latitude": 38.7223,
            "longitude": -9.1393,
            "utc_offset": 60,
            "city": "Lisbon",
            "country": "Portugal",
        },
        ("boat", "harbour"),
        time=1_651_381_800 + 60 * 60,
    ),
    "digikam.png": Annotation("A bird", {"people": ["Ben"], "rating": 5}, ("Ben", "Birds")),
    "apple.jpg": Annotation(metadata={"people": ["Zoë Müller"]}),
    "windows.jpg": Annotation("Grandma's garden", {"rating": 3}),
}


def jpeg(**info: Any) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (4, 3)).save(stream, "JPEG", **info)
    return stream.getvalue()


def xmp(properties: str) -> bytes:
    names = 'xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"'
    names += ' xmlns:dc="http://purl.org/dc/elements/1.1/"'
    names += ' xmlns:xmp="http://ns.adobe.com/xap/1.0/"'
    names += ' xmlns:exif="http://ns.adobe.com/exif/1.0/"'
    return f"<rdf:RDF {names}><rdf:Description>{properties}</rdf:Description></rdf:RDF>".encode()


@pytest.mark.parametrize("name", CARRIED)
def test_fields_are_those_that_cameras_and_programs_write(name: str) -> None:
    assert read_header((PHOTOS / name).read_bytes()).annotation == CARRIED[name]


def test_every_value_has_the_declared_type() -> None:
    kinds: dict[str, Any] = {
        name: {"list": list}.get(str(kind).partition("[")[0], kind)
        for name, kind in PhotoMetadata.__annotations__.items()
    }
    for name in CARRIED:
        for field, value in read_header((PHOTOS / name).read_bytes()).annotation.metadata.items():
            kind = kinds[field]
            assert type(value) is kind if kind is list else isinstance(value, kind)
    carried = {field for one in CARRIED.values() for field in one.metadata}
    assert carried == {*PHOTO_FIELDS} - {"ocr_text", "raw_file"}


@pytest.mark.parametrize("sidecar", ["a.xmp", "a.jpg.xmp"])
def test_a_sidecar_completes_text_and_json(tmp_path: Path, sidecar: str) -> None:
    (tmp_path / sidecar).write_bytes((PHOTOS / "sidecar.xmp").read_bytes())
    (tmp_path / "a.json").write_text('{"tags": ["mine"], "rating": 5, "year": 2020}')
    assert read_annotation(tmp_path / "a.jpg") == Annotation(
        "A sidecar's caption",
        {
            "title": "From the sidecar",
            "rating": 5,
            "exposure_s": 0.0166666667,
            "f_number": 2.8,
            "iso": 200,
            "year": 2020,
        },
        ("mine", "raw"),
    )


def test_a_sidecar_above_the_limit_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "a.xmp").write_bytes(b" " * (MAX_XMP_BYTES + 1))
    with pytest.raises(DataError, match=r"a\.xmp cannot be read: it has 4,194,305 bytes"):
        read_annotation(tmp_path / "a.jpg")


@pytest.mark.parametrize(
    ("packet", "expected"),
    [
        (b"", Annotation()),
        (b"<rdf:RDF", Annotation()),
        (b"\xff\xfe<\x00", Annotation()),
        (xmp("<xmp:Rating>6</xmp:Rating>"), Annotation()),
        (xmp("<xmp:Rating>nan</xmp:Rating>"), Annotation()),
        (xmp("<xmp:Rating>-1</xmp:Rating>"), Annotation(metadata={"rating": -1})),
        (xmp("<exif:FNumber>28/0</exif:FNumber>"), Annotation()),
        (xmp("<exif:GPSLatitude>38,42.5N</exif:GPSLatitude>"), Annotation()),
        (
            xmp(
                "<exif:GPSLatitude>38,42,30N</exif:GPSLatitude>"
                "<exif:GPSLongitude>9,8,15W</exif:GPSLongitude>"
            ),
            Annotation(metadata={"latitude": 38.7083333, "longitude": -9.1375}),
        ),
        (xmp("<dc:description>\x7f a\x7fb </dc:description>"), Annotation("a b")),
    ],
)
def test_values_are_read_and_damaged_values_left_out(packet: bytes, expected: Annotation) -> None:
    assert read_xmp(packet) == expected


def test_entities_are_not_expanded() -> None:
    lines = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 10}">' for n in range(1, 12))
    bomb = f'<!DOCTYPE r [<!ENTITY e0 "x">{lines}]>'.encode()
    packet = xmp("<dc:description>&e11;</dc:description>")
    assert read_xmp(bomb + packet) == Annotation()
    assert read_header(jpeg(xmp=bomb + packet)).annotation == Annotation()


@pytest.mark.parametrize(("levels", "expected"), [(32, {"title": "a"}), (33, {}), (40_000, {})])
def test_deep_xmp_is_not_read(levels: int, expected: dict[str, str]) -> None:
    inner = "<rdf:Description>" * (levels - 2) + "</rdf:Description>" * (levels - 2)
    assert read_xmp(xmp(f"<dc:title>a</dc:title>{inner}")).metadata == expected


def test_xmp_of_too_many_elements_is_not_read() -> None:
    packets = (xmp("<dc:title>a</dc:title>" + "<a/>" * count) for count in (99_994, 99_995))
    assert [read_xmp(packet).metadata for packet in packets] == [{"title": "a"}, {}]


def test_long_texts_and_lists_are_cut_to_what_a_collection_stores() -> None:
    many = "".join(f"<rdf:li>{n}{'ü' * 600}</rdf:li>" for n in range(1_000))
    packet = xmp(
        f"<dc:subject><rdf:Bag>{many}</rdf:Bag></dc:subject>"
        '<i:PersonInImage xmlns:i="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"><rdf:Bag>'
        f"{many.replace('ü', '')}</rdf:Bag></i:PersonInImage>"
        f"<dc:title>{'t' * 9_999}</dc:title><dc:description>{'ü' * 99_999}</dc:description>"
    )
    found = read_xmp(packet)
    assert (len(found.tags), len(found.metadata["people"])) == (256, 64)
    assert storage_error("", found.caption, found.metadata, tags=found.tags) is None


def test_the_place_0_0_is_that_of_a_device_without_a_fix() -> None:
    exif = Image.Exif()
    exif[0x8825] = {1: "N", 2: (0.0, 0.0, 0.0), 3: "E", 4: (0.0, 0.0, 0.0)}
    assert read_header(jpeg(exif=exif)).annotation == Annotation()


def test_metadata_that_are_too_large_together_are_those_of_the_user() -> None:
    given = Annotation(metadata={"note": "x" * (MAX_BYTES[METADATA] - 20)})
    assert given.over(Annotation(metadata={"camera": "Canon EOS R5"})) == given


def test_no_damage_raises_or_yields_what_cannot_be_stored() -> None:
    draw = random.Random(31)
    for name in sorted(CARRIED):
        data = (PHOTOS / name).read_bytes()
        for _ in range(150):
            damaged = bytearray(data)
            for _ in range(draw.randint(1, 12)):
                damaged[draw.randrange(len(data))] = draw.randrange(256)
            cut = draw.choice((len(data), draw.randrange(len(data))))
            found = read_header(bytes(damaged[:cut])).annotation
            fault = storage_error(
                "", found.caption, found.metadata, tags=found.tags, time=found.time
            )
            assert fault is None
            assert found.metadata.keys() <= {*PHOTO_FIELDS}


def test_the_documented_table_is_that_of_the_fields() -> None:
    kinds = {"str": "text", "int": "whole number", "float": "number", "bool": "true or false"}
    types = {name: kind.__name__ for name, kind in PhotoMetadata.__annotations__.items()}
    # pydantic reads `typing.TypedDict` from Python 3.12 on. The first docstring is of the class.
    texts = re.findall(r'"""(.+?)"""', inspect.getsource(PhotoMetadata), re.DOTALL)[1:]
    docstrings = {name: " ".join(text.split()) for name, text in zip(types, texts, strict=True)}
    rows = [
        f"| `{name}` | {kinds.get(types[name], 'list of texts')} | {text.rstrip('.')} |"
        for name, text in docstrings.items()
    ]
    page = Path(__file__).parents[3] / "docs" / "photos.md"
    documented = page.read_text().partition("## Fields\n")[2].strip().split("\n\n")[0]
    assert documented.splitlines()[2:] == rows
