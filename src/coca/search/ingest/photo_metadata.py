"""Metadata that photos carry: Exif, IPTC and XMP, of the file itself and of an `.xmp` sidecar.

XMP takes precedence over IPTC, and IPTC over Exif, for what people wrote; Exif takes precedence for
what the camera wrote (Metadata Working Group, "Guidelines for Handling Image Metadata" 2.0). All
files are untrusted: what is damaged is left out, texts and lists are cut, and no reader raises.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Any, TypedDict
from xml.etree import ElementTree

from PIL import Image, ImageFile, IptcImagePlugin

from coca.core.files.formats import HEAD_BYTES, is_raw
from coca.processing.image_file import decoder_warnings_ignored, opened, raw_tags, upright_size
from coca.search.ingest.exif import (
    MAX_TEXT_BYTES,
    Exif,
    camera_of,
    clean,
    cut,
    moment_of,
    number_of,
    place_of,
    text_of,
    texts_of,
)
from coca.search.photo_filter import gazetteer, has_gazetteer
from coca.search.records import (
    CAPTION,
    FAVOURITE,
    LATITUDE,
    LONGITUDE,
    MAX_BYTES,
    MAX_TAG_BYTES,
    MAX_TAGS,
    METADATA,
    READ_METADATA,
    READ_PLACE,
    UTC_OFFSET,
)

# The fields, their types and units. Filters, facets, JSON and the documentation follow from here.


class PhotoMetadata(TypedDict, total=False):
    """Fields that `coca index` adds to the metadata of a photo, where the photo has them.

    A field of the same name in `NAME.json` or a table takes precedence.
    """

    title: str
    """Title."""
    people: list[str]
    """Names of the people in the photo, as Lightroom, digiKam, Apple and Microsoft write them."""
    rating: int
    """Stars, 0 to 5; -1 if rejected."""
    camera: str
    """Maker and model of the camera."""
    lens: str
    """Model of the lens."""
    exposure_s: float
    """Exposure time, in seconds."""
    f_number: float
    """Aperture, as the f-number."""
    focal_length: float
    """Focal length of the lens, in millimetres."""
    iso: int
    """Sensitivity, as the ISO speed."""
    flash: bool
    """Whether the flash fired."""
    orientation: int
    """Orientation of the stored pixels, 1 to 8, as in Exif; searches and pages show it upright."""
    latitude: float
    """Latitude in degrees, north positive, -90 to 90."""
    longitude: float
    """Longitude in degrees, east positive, -180 to 180."""
    altitude: float
    """Altitude above sea level, in metres."""
    utc_offset: int
    """Offset of the zone of the capture time from UTC, in minutes. `time` is local time."""
    city: str
    """City or town; if the photo names none, that of its coordinates (extra `places`)."""
    country: str
    """Country."""
    ocr_text: str
    """Text inside the image, line by line, with `coca index --ocr`."""
    raw_file: str
    """Name of the raw file of the same photo, next to it."""


PHOTO_FIELDS = tuple(PhotoMetadata.__annotations__)
"""Keys of the metadata of photos."""


@dataclass(frozen=True)
class Annotation:
    """Caption, metadata, tags, album and time of an image."""

    caption: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    album: str = ""
    time: int = 0
    """Time of capture, in seconds since 1970; 0 if unknown."""

    @classmethod
    def of(
        cls, captions: Sequence[str], fields: Mapping[str, Any], *, tags: Iterable[str] = ()
    ) -> "Annotation":
        """Split fields into tags, album, time and other metadata."""
        rest = dict(fields)
        if len(captions) > 1:
            rest["captions"] = list(captions)
        found = (*tags, *_take(rest, "tags", _as_tags, ()))
        album = _take(rest, "album", lambda value: value if isinstance(value, str) else None, "")
        time, zone = _take(rest, "time", _as_time, (0, None))
        if zone is not None:
            rest.setdefault(UTC_OFFSET, zone)
        caption = captions[0] if captions else ""
        return cls(caption, rest, tuple(dict.fromkeys(found)), album, time)

    def over(self, other: "Annotation") -> "Annotation":
        """Complete this annotation by another one; tags of both are kept.

        The other's metadata are left out if both together are too large for a collection.
        """
        metadata = {**other.metadata, **self.metadata}
        if other.metadata and len(json.dumps(metadata)) > MAX_BYTES[METADATA]:
            metadata = dict(self.metadata)
        tags = tuple(dict.fromkeys((*self.tags, *other.tags)))
        return Annotation(
            self.caption or other.caption,
            metadata,
            tags if len(tags) <= MAX_TAGS else self.tags,
            self.album or other.album,
            self.time or other.time,
        )


def _take(fields: dict[str, Any], name: str, read: Callable[[Any], Any], default: Any) -> Any:
    """Remove and return a field if it is valid, else return the default."""
    value = read(fields[name]) if name in fields else None
    if value is None:
        return default
    del fields[name]
    return value


def _as_tags(value: Any) -> tuple[str, ...] | None:
    texts = value.split(",") if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(one, str) for one in texts):
        return None
    return tuple(one.strip() for one in texts if one.strip())


def _as_time(value: Any) -> tuple[int, int | None] | None:
    """Return local seconds since 1970, and the offset of the zone in minutes if there is one."""
    if isinstance(value, str):
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            return None
        return _seconds(moment), _minutes(moment.tzinfo)
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 2**62:
        return None
    return int(value), None


@dataclass(frozen=True)
class Header:
    """Size of an image, and the metadata that its file carries."""

    width: int = 0
    """Width of the upright image, in pixels; 0 if unknown."""
    height: int = 0
    """Height, as `width`."""
    annotation: Annotation = field(default_factory=Annotation)
    """Caption, keywords, time of capture and fields of `PhotoMetadata`. The time is that of the
    camera's clock, also where its zone is known, so that a day is the day at the place."""


def with_place(annotation: Annotation) -> Annotation:
    """Add city and country of the place where a photo was taken, if the extra `places` is there."""
    latitude, longitude = (annotation.metadata.get(name) for name in (LATITUDE, LONGITUDE))
    is_named = "city" in annotation.metadata or "country" in annotation.metadata
    if is_named or not has_gazetteer():
        return annotation
    if not (isinstance(latitude, int | float) and isinstance(longitude, int | float)):
        return annotation
    place = gazetteer().at(float(latitude), float(longitude))
    if place is None:
        return annotation
    return annotation.over(Annotation(metadata={"city": place.city, "country": place.country}))


def reads_of_files() -> int:
    """Return the flags of `Origin.read` for what each run reads of a file."""
    return READ_METADATA | (READ_PLACE if has_gazetteer() else 0)


MAX_XMP_BYTES = 4 << 20
"""Size above which XMP is not parsed, in bytes; that of an edited photo has tens of kilobytes."""
_MAX_CAPTION_BYTES, _MAX_PEOPLE = MAX_BYTES[CAPTION], 64
_MAX_ELEMENTS, _MAX_LEVELS = 100_000, 32

_CAMERA_CAPTIONS = re.compile(
    r"(olympus|sony|konica|minolta|kodak|nikon|samsung|casio) .*|dcim|digital camera|\W*|untitled"
    r"|screenshot|.{0,4}\d{3,}",
    re.IGNORECASE,
)
"""Descriptions that cameras write into each photo."""


def read_header(image: bytes) -> Header:
    """Read the header of an encoded image; empty if damaged, as the model reports the error."""
    try:
        with decoder_warnings_ignored(), opened(image, "") as (shown, _):
            width, height = upright_size(shown)
            exif = Exif(shown.getexif())
            if is_raw(image[:HEAD_BYTES]):
                # The preview has an Exif of its own, or nothing but its orientation.
                exif = Exif(raw_tags(image)) or exif
            iptc, packet = _iptc_of(shown), shown.info.get("xmp", exif.value(_XMP_TAG))
            xmp = (Xmp.parse(packet) if isinstance(packet, bytes) else None) or Xmp()
    except Exception:
        # On damaged files Pillow's readers raise nearly anything.
        return Header()
    return Header(width, height, _annotation(exif, iptc, xmp))


def read_xmp(packet: bytes) -> Annotation:
    """Read an XMP packet, such as an `.xmp` sidecar; empty if it is damaged."""
    return _annotation(Exif(), {}, Xmp.parse(packet) or Xmp())


# IPTC: what agencies and older programs write.

_TITLE, _KEYWORDS, _CITY, _COUNTRY, _CAPTION = (2, 5), (2, 25), (2, 90), (2, 101), (2, 120)


def _iptc_of(image: Image.Image) -> dict[tuple[int, int], list[str]]:
    if not isinstance(image, ImageFile.ImageFile):
        return {}
    try:
        found = IptcImagePlugin.getiptcinfo(image) or {}
    except Exception:
        return {}
    return {
        key: texts_of(value if isinstance(value, list) else [value]) for key, value in found.items()
    }


# XMP: what photo programs write, into the file or next to it.

XMP_NAMESPACES = {
    "rdf": "http://www.w3.org/1999/02/22-rdf-syntax-ns#",
    "dc": "http://purl.org/dc/elements/1.1/",
    "xmp": "http://ns.adobe.com/xap/1.0/",
    "photoshop": "http://ns.adobe.com/photoshop/1.0/",
    "exif": "http://ns.adobe.com/exif/1.0/",
    "exifEX": "http://cipa.jp/exif/1.0/",
    "tiff": "http://ns.adobe.com/tiff/1.0/",
    "aux": "http://ns.adobe.com/exif/1.0/aux/",
    "Iptc4xmpExt": "http://iptc.org/std/Iptc4xmpExt/2008-02-29/",
    "regions": "http://www.metadataworkinggroup.com/schemas/regions/",
    "microsoft": "http://ns.microsoft.com/photo/1.2/t/Region#",
    "digiKam": "http://www.digikam.org/ns/1.0/",
    "lr": "http://ns.adobe.com/lightroom/1.0/",
}
_XMP_TAG = 0x02BC
_DEGREES = re.compile(r"(\d+),([\d.]+)(?:,([\d.]+))?([NSEW])")


def _name(short: str) -> str:
    prefix, _, local = short.partition(":")
    return f"{{{XMP_NAMESPACES[prefix]}}}{local}"


class _ShallowBuilder(ElementTree.TreeBuilder):
    """Builds a tree of at most `_MAX_LEVELS` levels; a deeper one takes quadratic time to read."""

    _level = 0

    def start(self, tag: Any, attributes: Any) -> ElementTree.Element:
        self._level += 1
        if self._level > _MAX_LEVELS:
            raise ValueError(f"more than {_MAX_LEVELS} levels of elements")
        return super().start(tag, attributes)

    def end(self, tag: str) -> ElementTree.Element:
        self._level -= 1
        return super().end(tag)


class Xmp:
    """Properties of an XMP packet."""

    def __init__(
        self, values: Mapping[str, Sequence[str]] | None = None, people: Sequence[str] = ()
    ) -> None:
        """Take texts by the name of their property, and names of people."""
        self._values, self.people = values or {}, people

    @classmethod
    def parse(cls, packet: bytes) -> "Xmp | None":
        """Parse a packet; None if it is damaged, too large, or declares entities."""
        text = packet[:MAX_XMP_BYTES].decode("utf-8-sig", "replace").strip(" \t\r\n\0")
        # Entities would let a small file become a large text.
        if len(packet) > MAX_XMP_BYTES or "<!DOCTYPE" in text or text.count("<") > _MAX_ELEMENTS:
            return None
        try:
            parser = ElementTree.XMLParser(target=_ShallowBuilder())
            parser.feed(text)
            root = parser.close()
        except (ElementTree.ParseError, ValueError):
            return None
        values: dict[str, list[str]] = {}
        people: list[str] = []
        for described in root.iter(_name("rdf:Description")):
            for name, value in described.attrib.items():
                values.setdefault(name, [value])
            for child in described:
                items = [item.text or "" for item in child.iter(_name("rdf:li"))]
                values.setdefault(child.tag, items or [child.text or ""])
        for element in root.iter():
            for name, kind in (
                ("regions:Name", "regions:Type"),
                ("microsoft:PersonDisplayName", ""),
            ):
                person = _property(element, name)
                if person and (not kind or _property(element, kind) in ("", "Face")):
                    people.append(person)
        return cls(values, people)

    def texts(self, name: str) -> list[str]:
        """Return the texts of a property, such as `dc:subject`, without empty ones."""
        return list(filter(None, map(clean, self._values.get(_name(name), ()))))

    def text(self, *names: str, most: int = MAX_TEXT_BYTES) -> str:
        """Return the first text of the first property that has one."""
        found = (text for name in names for text in self._values.get(_name(name), ()))
        return next(filter(None, (clean(text, most) for text in found)), "")

    def number(self, field: str, *names: str) -> Any:
        """Return the number of the first of these properties; None if it is none."""
        return number_of(field, self.text(*names))

    def degrees(self, field: str, name: str) -> Any:
        """Return a latitude or longitude in degrees; None if it is none."""
        found = _DEGREES.fullmatch(self.text(name))
        if not found:
            return None
        try:
            value = float(found[1]) + float(found[2]) / 60 + float(found[3] or 0) / 3600
        except ValueError:
            return None
        return number_of(field, -value if found[4] in "SW" else value)

    def moment(self) -> tuple[datetime, tzinfo | None] | None:
        """Return the time of capture and its zone; None if it is unknown."""
        for name in ("exif:DateTimeOriginal", "photoshop:DateCreated", "xmp:CreateDate"):
            try:
                moment = datetime.fromisoformat(self.text(name))
            except ValueError:
                continue
            return moment.replace(tzinfo=None), moment.tzinfo
        return None


def _property(element: ElementTree.Element, name: str) -> str:
    """Return a property of a structure: an attribute, or a child."""
    qualified = _name(name)
    return clean(element.get(qualified) or element.findtext(qualified) or "")


# The three together.


def _annotation(exif: Exif, iptc: Mapping[tuple[int, int], Sequence[str]], xmp: Xmp) -> Annotation:
    described = text_of(exif.value(0x010E), _MAX_CAPTION_BYTES)
    caption = (
        xmp.text("dc:description", most=_MAX_CAPTION_BYTES)
        or "".join(iptc.get(_CAPTION, ())[:1])
        or ("" if _CAMERA_CAPTIONS.fullmatch(described) else described)
    )
    # Programs without keywords of their own write the leaves of their trees of tags.
    trees = [*xmp.texts("digiKam:TagsList"), *xmp.texts("lr:hierarchicalSubject")]
    leaves = [re.split(r"[/|]", tree)[-1].strip() for tree in trees]
    keywords = [*(xmp.texts("dc:subject") or leaves), *iptc.get(_KEYWORDS, ())]
    if xmp.text("xmp:Label") == FAVOURITE:
        keywords.append(FAVOURITE)
    moment = moment_of(exif) or xmp.moment()
    place: dict[str, Any] = place_of(exif.gps)
    if not place:
        latitude = xmp.degrees("latitude", "exif:GPSLatitude")
        longitude = xmp.degrees("longitude", "exif:GPSLongitude")
        if latitude is not None and longitude is not None and (latitude or longitude):
            place = {"latitude": latitude, "longitude": longitude}
    flash = number_of("flash", exif.value(0x9209))

    def number(name: str, tag: int, *properties: str) -> Any:
        found = exif.number(name, tag)
        return xmp.number(name, *properties) if found is None else found

    people = dict.fromkeys([*xmp.texts("Iptc4xmpExt:PersonInImage"), *xmp.people])
    photo = dict[str, Any](
        title=xmp.text("dc:title") or "".join(iptc.get(_TITLE, ())[:1]),
        people=list(people)[:_MAX_PEOPLE],
        rating=xmp.number("rating", "xmp:Rating") or exif.number("rating", 0x4746),
        camera=camera_of(
            exif.text(0x010F) or xmp.text("tiff:Make"), exif.text(0x0110) or xmp.text("tiff:Model")
        ),
        lens=exif.text(0xA434) or xmp.text("exifEX:LensModel", "aux:Lens"),
        exposure_s=number("exposure_s", 0x829A, "exif:ExposureTime"),
        f_number=number("f_number", 0x829D, "exif:FNumber"),
        focal_length=number("focal_length", 0x920A, "exif:FocalLength"),
        iso=number("iso", 0x8827, "exifEX:PhotographicSensitivity", "exif:ISOSpeedRatings"),
        flash=None if flash is None else bool(flash & 1),
        orientation=number("orientation", 0x0112, "tiff:Orientation"),
        utc_offset=_minutes(moment[1]) if moment else None,
        city=xmp.text("photoshop:City") or "".join(iptc.get(_CITY, ())[:1]),
        country=xmp.text("photoshop:Country") or "".join(iptc.get(_COUNTRY, ())[:1]),
        **place,
    )
    return Annotation(
        caption,
        {name: value for name, value in photo.items() if value not in (None, [], "")},
        tuple(cut(tag, MAX_TAG_BYTES) for tag in dict.fromkeys(keywords))[:MAX_TAGS],
        time=_seconds(moment[0]) if moment else 0,
    )


def _seconds(local: datetime) -> int:
    """Return the seconds from 1970 to a local time of any zone."""
    return int(local.replace(tzinfo=UTC).timestamp())


def _minutes(zone: tzinfo | None) -> int | None:
    offset = None if zone is None else zone.utcoffset(None)
    return None if offset is None else round(offset.total_seconds() / 60)
