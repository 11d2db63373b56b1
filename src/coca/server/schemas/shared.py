"""Types and base classes that several bodies share."""

from itertools import islice
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

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
MAX_BYTES = 1_000_000
"""Maximum size of a body without images."""
_KEPT_UNKNOWN = 20
"""Maximum number of unknown fields that are reported; further ones are dropped."""


def _box(region: list[float]) -> list[float]:
    x0, y0, x1, y1 = region
    if not (x0 < x1 and y0 < y1):
        raise ValueError(f"region must be [x0, y0, x1, y1] with x0 < x1 and y0 < y1, got {region}")
    return region


def _encodable(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("a text must have no lone surrogates") from None
    return text


Text: TypeAlias = Annotated[str, Field(min_length=1, max_length=MAX_TEXT)]
ItemId: TypeAlias = Annotated[str, Field(min_length=1, max_length=64)]
DataUri: TypeAlias = Annotated[
    str,
    Field(
        min_length=1,
        description="Image as a data URI, `data:image/png;base64,...`. URLs are not fetched.",
    ),
]
Fraction: TypeAlias = Annotated[float, Field(ge=0, le=1)]
Region: TypeAlias = Annotated[
    list[Fraction],
    Field(
        min_length=4,
        max_length=4,
        description="`[x0, y0, x1, y1]` in fractions of the upright image's width and height.",
    ),
    AfterValidator(_box),
]
CollectionName: TypeAlias = Annotated[
    str | None,
    Field(pattern=r"^\w+$", max_length=255, description="Default: the first one of the key."),
]
Limit: TypeAlias = Annotated[int, Field(ge=1, le=MAX_LIMIT)]
Offset: TypeAlias = Annotated[
    int,
    Field(ge=0, le=MAX_OFFSET, description="At most 16,384 with a query, limit included."),
]
Expression: TypeAlias = Annotated[
    str,
    Field(max_length=16_384, description="Milvus filter expression, such as `width > 100`."),
]
# In a union, pydantic accepts texts that cannot be encoded.
Value: TypeAlias = bool | int | float | Annotated[str, AfterValidator(_encodable)]
Side: TypeAlias = Literal["image", "text"]


class Body(BaseModel):
    """Base class of all bodies: unknown fields are errors, numbers are finite."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    max_bytes: ClassVar[int | None] = MAX_BYTES
    """Maximum size of this body; None: `ServerSettings.max_body_mb`, for images."""

    @model_validator(mode="before")
    @classmethod
    def _with_few_unknown(cls, data: Any) -> Any:
        """Drop most unknown fields, since each would become an error of its own."""
        known = cls.model_fields
        if not isinstance(data, dict) or len(data) <= len(known) + _KEPT_UNKNOWN:
            return data
        unknown = (name for name in data if name not in known)
        kept = {*known, *islice(unknown, _KEPT_UNKNOWN)}
        return {name: value for name, value in data.items() if name in kept}


class ImageReference(Body):
    """An image of a request: a data URI or an item of the collection, or a region of it."""

    max_bytes: ClassVar[int | None] = None

    image: DataUri | None = None
    id: ItemId | None = None
    region: Region | None = None

    @model_validator(mode="after")
    def _has_one_image(self) -> "ImageReference":
        if self.image is not None and self.id is not None:
            raise ValueError("image and id must not both be given")
        if self.region is not None and self.image is None and self.id is None:
            raise ValueError("region needs an image or an id")
        return self


class Example(ImageReference):
    """An example of a query: a text, an image or an item, with its weight."""

    text: Text | None = None
    weight: Annotated[float, Field(gt=0, le=10)] = 1.0

    @model_validator(mode="after")
    def _has_one_value(self) -> "Example":
        if sum(value is not None for value in (self.text, self.image, self.id)) != 1:
            raise ValueError("an example must be one of text, image and id")
        return self


class Condition(Body):
    """A comparison of one field; the service quotes the value."""

    field: Annotated[
        str,
        Field(
            max_length=255,
            description="id, caption, album, width, height, time, caption_source, tags, or "
            "metadata.KEY",
        ),
    ]
    operator: Literal["==", "!=", "<", "<=", ">", ">=", "in", "not in", "has all", "has any"] = "=="
    value: Value | Annotated[list[Value], Field(max_length=1_000)]


class Scope(Body):
    """Items that a request covers: a collection, and filters that all must hold."""

    collection: CollectionName = None
    filter: Expression = ""
    where: Annotated[list[Condition], Field(max_length=MAX_EXAMPLES)] = []
    """Conditions with any values, which the service quotes."""
