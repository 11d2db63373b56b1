"""Typed configuration: YAML layers and overrides, validated into frozen pydantic models.

A field whose type is a configuration is a section. All errors are collected in one `ConfigError`,
one line each: the dotted key, the expected type and range, and the value; see `Config`.

A section whose class has a classmethod `kinds()` is of one of several subclasses: its key `kind`
chooses one, as in pydantic's discriminated unions, and each has settings of its own.

A section whose class has a classmethod `presets()` may name a preset: `model: {preset: tiny,
width: 64}` starts from the preset and changes the width; `model: tiny` is the unchanged preset.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import reduce
from numbers import Number
from operator import getitem
from pathlib import Path
from typing import Annotated, Any, ClassVar, TypeAlias, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationError,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import PydanticCustomError, core_schema, to_jsonable_python

from coca.core.config.faults import WRONG, described, origins_of, replaced_settings, sentences
from coca.core.config.fields import KIND, PRESET, Tree, kinds_of, one_of, show
from coca.core.errors import ConfigError, did_you_mean

Fraction: TypeAlias = Annotated[float, Field(ge=0, le=1)]
"""Type of a fraction or a probability."""

C = TypeVar("C", bound="Config")
T = TypeVar("T")


class Config(BaseModel):
    """Base class of configurations: frozen, with strict types and without unknown settings.

    The range of a field is part of its type. A rule between several fields is a
    `model_validator(mode="after")` that raises a ConfigError.

    Raises:
        ConfigError: A value is out of range; the message lists all such fields.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
        defer_build=True,
    )

    range_error: ClassVar[type[ConfigError]] = ConfigError
    """Class of the error."""

    @classmethod
    def __pydantic_init_subclass__(cls, **_: Any) -> None:
        """Give each field without a docstring that of the field it overrides."""
        for base in cls.__mro__[1:]:
            for name, field in getattr(base, "model_fields", {}).items():
                cls.model_fields[name].description = (
                    cls.model_fields[name].description or field.description
                )

    @classmethod
    def __get_pydantic_core_schema__(
        cls, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        schema: Any = dict(handler.resolve_ref_schema(handler(source)))
        _accept_lists(schema)
        # The reference is that of the whole: a second section of the class refers to it.
        ref = schema.pop("ref", None)
        return core_schema.with_info_wrap_validator_function(cls._validated, schema, ref=ref)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """Describe a section with kinds as one of them."""
        kinds = kinds_of(cls).values()
        for kind in kinds:
            kind.model_rebuild()
        schemas = [handler(kind.__pydantic_core_schema__) for kind in kinds]
        return {"anyOf": schemas} if schemas else handler(schema)

    @classmethod
    def _validated(cls, given: Any, handler: Any, info: Any) -> Any:
        """Validate a section of a recipe as its kind; in Python, raise one ConfigError."""
        in_code = info.mode == "python"
        try:
            if not in_code:
                given = _completed(cls, given)
                if isinstance(given, dict) and (kinds := kinds_of(cls)):
                    own = _chosen(KIND, given, kinds)
                    if own is not cls:
                        return own.model_validate_json(json.dumps(given))
            elif isinstance(given, dict):
                given = {name: _plain_number(value) for name, value in given.items()}
            return handler(given)
        except ConfigError as error:  # a rule
            if in_code:
                raise
            raise ValueError(str(error)) from None
        except ValidationError as error:
            found = described(cls, given, error)
            if in_code:
                raise cls.range_error("; ".join(sentences(found, cls, {}))) from None
            raise found from None

    def replace(self: C, **changes: Any) -> C:
        """Return a validated copy with other values."""
        return type(self)(**dict(self) | changes)


def _accept_lists(schema: Any) -> None:
    """Let strict validation take a list for a tuple: JSON has no tuples."""
    if isinstance(schema, dict) and schema.get("type") != "function-wrap":
        if schema.get("type") == "tuple":
            schema["strict"] = False
        schema = list(schema.values())
    for each in schema if isinstance(schema, list) else ():
        _accept_lists(each)


def _plain_number(value: Any) -> Any:
    """Convert a number of NumPy to one of Python, which a strict check requires."""
    return value.item() if isinstance(value, Number) and hasattr(value, "item") else value


def _completed(kind: type[BaseModel], given: Any) -> Any:
    """Complete a section of a recipe with its preset, or its sections with their defaults."""
    presets = kind.presets() if hasattr(kind, "presets") else {}
    if isinstance(given, str) and presets:
        given = {PRESET: given}
    if not isinstance(given, dict):
        return given
    if presets and PRESET in given:
        rest = {name: value for name, value in given.items() if name != PRESET}
        if given[PRESET] is not None:
            return _above(_chosen(PRESET, given, presets), rest)
        given = rest
    fields = {name: field for name, field in kind.model_fields.items() if name in given}
    starts = {name: it.get_default(call_default_factory=True) for name, it in fields.items()}
    return {name: _above(starts.get(name), value) for name, value in given.items()}


def _above(start: Any, given: Any) -> Any:
    """Return a section with the settings given, and all others as in `start`.

    A section that names its own preset or another kind does not start from it.
    """
    if not isinstance(start, BaseModel) or not isinstance(given, dict) or given.get(PRESET):
        return given
    kind = getattr(start, KIND, None)
    if hasattr(start, "kinds") and given.get(KIND, kind) != kind:
        return given
    values = dict(start)
    return to_dict(values) | {name: _above(values.get(name), it) for name, it in given.items()}


def _chosen(key: str, given: Tree, among: Mapping[str, T]) -> T:
    """Return the kind or the preset that a section names."""
    if (name := str(given.get(key))) in among:
        return among[name]
    problem = f" is missing; it must be {one_of(among)}"
    if key in given:
        problem = f" = {show(given[key])} is unknown; {did_you_mean(name, among)}"
    raise PydanticCustomError(WRONG, f".{key}{problem}")


def load_config(
    kind: type[C],
    *layers: Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    find_data: bool = False,
) -> C:
    """Merge recipes, mappings and overrides into one validated configuration; later ones win.

    A section of another kind than in earlier layers loses only the settings that this kind lacks.
    With `find_data`, a local `data_root` must exist.
    """
    # Imports YAML, which classes of configurations do not need.
    from coca.core.config import recipe

    read: list[tuple[str, Tree]] = []
    # All overrides are one layer, so that their order does not matter.
    changes: Tree = {}
    faults: list[str] = []
    for layer in (*layers, *overrides):
        try:
            if isinstance(layer, str):
                changes = recipe.merge(changes, recipe.parse_override(layer))
            elif isinstance(layer, Path):
                read.append((f"in {layer}", recipe.read_recipe(layer)))
            else:
                read.append(("given in code", to_dict(layer)))
        except ConfigError as error:
            faults.append(str(error))
    if faults:
        # Other errors may be due to what could not be read.
        raise ConfigError("\n".join(faults))
    read.append(("override", changes))
    tree: Tree = reduce(recipe.merge, [tree for _, tree in read], {})
    missing = recipe.missing_root(tree) if find_data else ""
    whole = recipe.fill_in(tree, given=recipe.DATA_ROOT in changes)
    return _build(kind, whole, read, missing)


def from_dict(kind: type[C], mapping: Mapping[str, Any], *, source: str) -> C:
    """Build the configuration that `to_dict` wrote; `source` identifies it in errors."""
    tree = to_dict(mapping)
    return _build(kind, tree, [(f"in {source}", tree)])


def _build(kind: type[C], tree: Any, layers: Sequence[tuple[str, Tree]], fault: str = "") -> C:
    """Validate a configuration that was merged from layers, each a name and a tree."""
    faults = [fault] if fault else []
    try:
        config = kind.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        error, origins = described(kind, tree, error), origins_of(layers)
        if replaced := replaced_settings(error, origins):
            for path in replaced:
                reduce(getitem, path[:-1], tree).pop(path[-1])
            return _build(kind, tree, layers, fault)
        faults = [*sentences(error, kind, origins), *faults]
    if faults:
        raise ConfigError("\n".join(faults))
    return config


def to_dict(config: Any) -> Any:
    """Convert a configuration, or another value, to JSON types, including all defaults."""
    _build_serializers(config)
    return to_jsonable_python(config, serialize_as_any=True)


def _build_serializers(value: Any) -> None:
    """Build the serializer of each section, which pydantic before 2.14 leaves deferred."""
    if isinstance(value, BaseModel):
        type(value).model_rebuild()
        value = vars(value)
    if isinstance(value, Mapping):
        value = list(value.values())
    for each in value if isinstance(value, list | tuple) else ():
        _build_serializers(each)


def digest(config: Any) -> str:
    """Hash a configuration to 16 hex digits; equal configurations have equal digests."""
    text = json.dumps(to_dict(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def non_default(config: BaseModel) -> Tree:
    """Return the settings that differ from their defaults, as JSON-serializable values.

    Unlike `to_dict`, the result does not change when a later version adds a setting with a default.
    """
    tree: Tree = {}
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if value != field.get_default(call_default_factory=True):
            tree[name] = non_default(value) if isinstance(value, BaseModel) else to_dict(value)
    return tree
