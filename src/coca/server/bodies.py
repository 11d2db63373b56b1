"""Types and base classes that several bodies share."""

from collections.abc import Callable
from difflib import get_close_matches
from typing import Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    WrapValidator,
    create_model,
    model_validator,
)
from pydantic_core import PydanticCustomError

from coca.core.config.fields import hint_of, text_of
from coca.search.ingest.photo_metadata import PHOTO_FIELDS
from coca.search.records import MAX_BYTES as MAX_STORED
from coca.search.records import METADATA
from coca.search.search_options import PhotoFilter, QueryOptions

MAX_LIMIT = 1_000
"""Maximum number of hits of one response."""
MAX_TEXT = 4_096
"""Maximum length of a text, in characters."""
MAX_OFFSET = 1_000_000
"""Maximum number of skipped items in a list without a query."""
MAX_RANKED = 16_384
"""Maximum number of hits of a query over all pages: the limit of a Milvus server."""
MAX_EXAMPLES = 64
"""Maximum number of examples, labels or conditions of one request."""
MAX_COMPARED = 1_000
"""Maximum number of values of all conditions of one request."""
MAX_COMPARED_LETTERS = 100_000
"""Maximum length of all values of all conditions of one request, in characters."""
MAX_BYTES = 1_000_000
"""Maximum size of a body without images."""


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("a text must have no lone surrogates") from None
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("a text must not be blank")
    return text


# Python alone counts these as white space.
_LETTER = {"pattern": r"[^\s\x1c-\x1f\x85]"}
Text: TypeAlias = Annotated[
    str, Field(max_length=MAX_TEXT, json_schema_extra=_LETTER), AfterValidator(_not_blank)
]
ItemId: TypeAlias = Annotated[str, Field(min_length=1, max_length=64)]
DataUri: TypeAlias = Annotated[
    str,
    # The file of a form is not encoded.
    WrapValidator(lambda value, check: value if isinstance(value, bytes) else check(value)),
    Field(
        min_length=1,
        description="Image as a data URI, `data:image/png;base64,...`. URLs are not fetched.",
        json_schema_extra={"format": "image-data-uri"},
        examples=[
            "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAFklEQVR42mP8z8DAwMDA"
            "xMDAwMDAAAANHQEDaB7T3gAAAABJRU5ErkJggg=="
        ],
    ),
]
CollectionName: TypeAlias = Annotated[
    str | None,
    Field(pattern=r"^\w+$", max_length=255, description="Default: the first one of the key."),
]
Expression: TypeAlias = Annotated[
    str,
    Field(
        max_length=16_384,
        description="Filter expression, such as `width > 100`.",
        json_schema_extra={"format": "filter"},
    ),
]
_LARGEST = 9 * 10**18
"""Nearly 64 bits: clients, and tools that read the schema, round larger numbers."""
_IN_64_BITS = Field(ge=-_LARGEST, le=_LARGEST)
Whole: TypeAlias = Annotated[int, _IN_64_BITS]
# In a union, pydantic accepts texts that cannot be encoded.
Value: TypeAlias = (
    bool
    | Whole
    | Annotated[float, _IN_64_BITS]
    | Annotated[str, Field(max_length=MAX_TEXT), AfterValidator(_encodable)]
)


def _bounded(metadata: dict[str, Any]) -> dict[str, Any]:
    pending: list[Any] = [metadata]
    size = 0
    for value in pending:
        size += len(value) if isinstance(value, dict | list | str) else 0
        # Each value and letter is a byte of JSON at least; the store counts all bytes.
        if size > MAX_STORED[METADATA]:
            raise ValueError(f"metadata must have at most {MAX_STORED[METADATA]:,} bytes as JSON")
        if isinstance(value, dict | list):
            pending += (*value, *value.values()) if isinstance(value, dict) else value
        elif isinstance(value, int | float) and not -_LARGEST <= value <= _LARGEST:
            raise ValueError(f"numbers must be in [-9e18, 9e18], got {value!r:.80}")
    return metadata


Metadata: TypeAlias = Annotated[dict[str, Any], AfterValidator(_bounded)]
JSON_VALUE = {"$ref": "#/components/schemas/Json"}
"""Schema of the values of metadata: a component of the OpenAPI document, as it contains itself."""
JSON: dict[str, Any] = {
    "anyOf": [
        {"type": ["null", "boolean", "string"]},
        {"type": "number", "minimum": -_LARGEST, "maximum": _LARGEST},
        {"type": "array", "items": JSON_VALUE},
        {"type": "object", "additionalProperties": JSON_VALUE},
    ]
}

_FORMATS = {"since": "period", "until": "period", "during": "period", "near": "place"}
_FORMATS |= {"within": "distance"}
"""Formats of texts in the schema: the patterns of their languages would be long."""
_TEXT = {"type": "string"}


def given(*names: str) -> dict[str, Any]:
    """Build the rule of a schema that some texts are given; null is not given."""
    return {"required": [*names], "properties": dict.fromkeys(names, _TEXT)}


def exactly_one(*names: str) -> dict[str, Any]:
    """Build the rule of a schema that one of some texts is given."""
    return {"oneOf": [given(name) for name in names]}


_MEANT = {
    **dict.fromkeys(("query", "q", "queries", "prompt", "input", "search", "keywords"), "text"),
    **dict.fromkeys(("top_k", "k", "top_n", "n", "size", "num_results", "page_size"), "limit"),
    **dict.fromkeys(("images", "image_url", "image_base64", "base64", "file"), "image"),
    **dict.fromkeys(("skip", "start", "from"), "offset"),
    **dict.fromkeys(("filters", "expr", "expression"), "filter"),
    **dict.fromkeys(("collection_name", "index", "index_name"), "collection"),
    **dict.fromkeys(("threshold", "min_similarity", "score_threshold"), "min_score"),
    **dict.fromkeys(("candidate_labels", "classes", "class_names", "categories"), "labels"),
    **dict.fromkeys(("op", "comparison"), "operator"),
    **dict.fromkeys(("item_id", "image_id"), "id"),
}
"""Names of fields in other services -> names here."""
_MAX_NAMED = 10
"""Maximum number of unknown fields that an error names."""


class Body(BaseModel):
    """Base class of all bodies: unknown fields and other types are errors, numbers are finite."""

    model_config = ConfigDict(
        extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    max_bytes: ClassVar[int | None] = MAX_BYTES
    """Maximum size of this body; None: `ServerSettings.max_body_mb`, for images."""

    @model_validator(mode="before")
    @classmethod
    def _has_known_fields(cls, given: Any) -> Any:
        """Name the fields that unknown ones may mean."""
        fields = cls.model_fields
        if not isinstance(given, dict) or not (unknown := given.keys() - fields.keys()):
            return given
        named = [name for name in given if name in unknown][:_MAX_NAMED]
        meant = list(dict.fromkeys(one for name in named if (one := cls._meant(str(name)))))
        others = len(unknown) - len(named)
        names = ", ".join(repr(str(name)[:64]) for name in named)
        names += f" and {others:,} others" if others else ""
        remedy = f"did you mean {', '.join(meant)}?" if meant else "known: " + ", ".join(fields)
        noun = "field" if len(unknown) == 1 else "fields"
        raise PydanticCustomError(
            "unknown_field",
            "unknown {noun} {names}; {remedy}",
            {"noun": noun, "names": names, "remedy": remedy},
        )

    @classmethod
    def _meant(cls, name: str) -> str | None:
        near = get_close_matches(name.lower()[:64], cls.model_fields, n=1, cutoff=0.7)
        translated = _MEANT.get(name.lower())
        return translated if translated in cls.model_fields else next(iter(near), None)


M = TypeVar("M", bound=Body)


class ServedOptions(QueryOptions):
    """Options of a search with the limits of the service."""

    limit: Annotated[int, Field(ge=1, le=MAX_LIMIT)] = 50
    offset: Annotated[int, Field(ge=0, le=MAX_OFFSET)] = 0
    """Number of best hits to skip, for paging; at most 16,384 with a query, limit included."""
    rerank: Annotated[int, Field(ge=0, le=256)] = 0


def with_options(
    options: type[BaseModel], *names: str, optional: bool = False
) -> Callable[[type[M]], type[M]]:
    """Decorate a body: add options with the types, ranges and docstrings of their fields."""

    def add(body: type[M]) -> type[M]:
        added: dict[str, Any] = {}
        for name, field in options.model_fields.items():
            if name in names:
                kind, default, text = hint_of(field), field.default, text_of(field)
                if optional:
                    kind, default, text = kind | None, None, f"{text} null: {default}."
                extra: Any = {"format": _FORMATS[name]} if name in _FORMATS else None
                shown = Field(description=text, json_schema_extra=extra)
                added[name] = (Annotated[kind, shown], default)
        return create_model(
            body.__name__, __base__=body, __module__=body.__module__, __doc__=body.__doc__, **added
        )

    return add


def given_options(body: Body, options: type[BaseModel]) -> dict[str, Any]:
    """Return the options that a body has; null is a default."""
    values = {name: getattr(body, name, None) for name in options.model_fields}
    return {name: value for name, value in values.items() if value is not None}


class ImageReference(Body):
    """An image of a request: a data URI or an item of the collection."""

    model_config = ConfigDict(json_schema_extra={"not": given("image", "id")})
    max_bytes: ClassVar[int | None] = None

    image: DataUri | None = None
    id: ItemId | None = None

    @model_validator(mode="after")
    def _has_one_image(self) -> "ImageReference":
        if self.image is not None and self.id is not None:
            raise ValueError("image and id must not both be given")
        return self


class Example(ImageReference):
    """An example of a query: a text, an image or an item, with its weight."""

    model_config = ConfigDict(json_schema_extra=exactly_one("text", "image", "id"))

    text: Text | None = None
    weight: Annotated[float, Field(ge=1e-6, le=10)] = 1.0

    @model_validator(mode="after")
    def _has_one_value(self) -> "Example":
        if sum(value is not None for value in (self.text, self.image, self.id)) != 1:
            raise ValueError("an example must be one of text, image and id")
        return self


_EQUAL, _ORDER = ["==", "!="], ["==", "!=", "<", "<=", ">", ">="]
_KEY, _TEXTS = r"metadata\.[\s\S]*", {"type": "array", "items": _TEXT, "minItems": 1}
_SCALAR = {"type": ["boolean", "string", "number"]}


def _compared(fields: str, operators: list[str], *values: dict[str, Any]) -> list[dict[str, Any]]:
    """Build the schema of conditions on fields of one kind; with `==` also of lists of values."""
    shown, value = {"pattern": f"^({fields})$"}, {"anyOf": [*values]}
    rule = {"properties": {"field": shown, "operator": {"enum": operators}, "value": value}}
    if "==" not in operators:
        return [{**rule, "required": ["operator"]}]
    return [rule, *_compared(fields, ["in", "not in"], {"type": "array", "items": value})]


class Condition(Body):
    """A comparison of one field; the service quotes the value."""

    model_config = ConfigDict(
        json_schema_extra={
            "anyOf": [
                *_compared("id|content|caption|album", _ORDER, _TEXT),
                *_compared("caption_source", _EQUAL, {"enum": ["given", "model", ""]}),
                *_compared("caption_source", _ORDER[2:], _TEXT),
                *_compared("width|height|time", _ORDER, {"type": "integer"}),
                *_compared("hidden", _EQUAL, {"type": "boolean"}),
                *_compared(_KEY, _EQUAL, _SCALAR),
                *_compared(_KEY, _ORDER[2:], {"type": ["string", "number"]}),
                *_compared(_KEY, ["has any"], _SCALAR, {"type": "array"}),
                *_compared(f"tags|{_KEY}", ["has all", "has any"], _TEXT, _TEXTS),
            ]
        }
    )
    field: Annotated[
        str,
        Field(
            max_length=255,
            description="id, caption, album, width, height, time, caption_source, tags, or "
            f"metadata.KEY. Photos have the keys {', '.join(PHOTO_FIELDS)}.",
        ),
    ]
    operator: Literal["==", "!=", "<", "<=", ">", ">=", "in", "not in", "has all", "has any"] = "=="
    value: Value | Annotated[list[Value], Field(fail_fast=True, max_length=MAX_COMPARED)]


@with_options(PhotoFilter, "since", "until", "during", "near", "within")
class Scope(Body):
    """Items that a request covers: a collection, and filters that all must hold."""

    collection: CollectionName = None
    filter: Expression = ""
    where: Annotated[list[Condition], Field(fail_fast=True, max_length=MAX_EXAMPLES)] = []
    """Conditions that all must hold, with any values; the service quotes them."""
    video: ItemId | None = None
    """Id of a frame: only the frames of its video."""

    @model_validator(mode="before")
    @classmethod
    def _has_few_values(cls, given: Any) -> Any:
        """Count all values before each of them is compared with every type."""
        where = given.get("where") if isinstance(given, dict) else None
        conditions = where[: MAX_EXAMPLES + 1] if isinstance(where, list) else []
        compared = [one.get("value") for one in conditions if isinstance(one, dict)]
        lists = [value if isinstance(value, list) else [value] for value in compared]
        count, letters = sum(map(len, lists)), 0
        if count <= MAX_COMPARED:
            texts = (value for values in lists for value in values if isinstance(value, str))
            letters = sum(map(len, texts))
        if count > MAX_COMPARED or letters > MAX_COMPARED_LETTERS:
            raise PydanticCustomError(
                "too_many_values",
                "where must have at most {most} values and {most_letters} characters in all, got "
                "{count} and {letters}",
                {
                    "most": f"{MAX_COMPARED:,}",
                    "most_letters": f"{MAX_COMPARED_LETTERS:,}",
                    "count": f"{count:,}",
                    "letters": f"{letters:,}",
                },
            )
        return given
