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
from numbers import Integral, Real
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
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema, to_jsonable_python

from coca.core.config.faults import sentences
from coca.core.config.fields import (
    KIND,
    PRESET,
    Tree,
    default_of,
    is_mapping,
    kinds_of,
    section_of,
    value_at,
)
from coca.core.errors import ConfigError

Fraction: TypeAlias = Annotated[float, Field(ge=0, le=1)]
"""Type of a fraction or a probability."""

C = TypeVar("C", bound="Config")


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
        """Validate a section as its kind; in Python, convert errors to one ConfigError."""
        in_code = info.mode == "python"
        if in_code and isinstance(given, dict):
            given = {name: _plain_number(value) for name, value in given.items()}
        try:
            own = cls if in_code or not isinstance(given, dict) else _kind_of(cls, given)
            if own is not cls:
                return own.model_validate_json(json.dumps(given))
            return handler(given)
        except ConfigError as error:  # a rule
            if in_code:
                raise
            raise ValueError(str(error)) from None
        except ValidationError as error:
            if not in_code:
                raise
            raise cls.range_error("; ".join(sentences(error, cls, given, ()))) from None

    def replace(self: C, **changes: Any) -> C:
        """Return a validated copy with other values."""
        values = {name: getattr(self, name) for name in type(self).model_fields}
        return type(self)(**values | changes)


def _accept_lists(schema: Any) -> None:
    """Let strict validation take a list for a tuple: JSON has no tuples."""
    if isinstance(schema, dict) and schema.get("type") != "function-wrap":
        if schema.get("type") == "tuple":
            schema["strict"] = False
        schema = list(schema.values())
    for each in schema if isinstance(schema, list) else ():
        _accept_lists(each)


def _plain_number(value: Any) -> Any:
    """Convert numbers of NumPy to those of Python, which a strict check requires."""
    if isinstance(value, bool | int | float):
        return value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value


def _kind_of(kind: type[BaseModel], given: Tree) -> type[BaseModel]:
    """Return the class that a section chooses."""
    kinds, name = kinds_of(kind), given.get(KIND)
    if not kinds:
        return kind
    if isinstance(name, str) and name in kinds:
        return kinds[name]
    unknown: Any = PydanticCustomError("unknown_kind", "unknown") if KIND in given else "missing"
    at_kind = InitErrorDetails(type=unknown, loc=(KIND,), input=name)
    raise ValidationError.from_exception_data(KIND, [at_kind])


def load_config(
    kind: type[C],
    *layers: Path | Mapping[str, Any],
    overrides: Sequence[str] = (),
    find_data: bool = False,
) -> C:
    """Merge recipes, mappings and overrides into one validated configuration; later ones win.

    With `find_data`, a local `data_root` must exist.
    """
    # Imports YAML, which classes of configurations do not need.
    from coca.core.config import recipe

    read: list[tuple[str, Tree]] = []
    faults: list[str] = []
    for layer in (*layers, *overrides):
        try:
            if isinstance(layer, Mapping):
                read.append(("given in code", to_dict(layer)))
            elif isinstance(layer, Path):
                read.append((f"in {layer}", recipe.read_recipe(layer)))
            else:
                read.append((f"override {layer}", recipe.parse_override(layer)))
        except ConfigError as error:
            faults.append(str(error))
    if faults:
        # Other errors may be due to what could not be read.
        raise ConfigError("\n".join(faults))
    trees = [tree for _, tree in read]
    # All overrides are one layer, so that their order does not matter.
    changes: Tree = reduce(recipe.merge, trees[len(layers) :], {})
    trees[len(layers) :] = [changes]
    tree: Tree = reduce(recipe.merge, trees, {})
    missing = recipe.missing_root(tree) if find_data else ""
    whole = recipe.fill_in(tree, given=recipe.DATA_ROOT in changes)
    return _build(kind, whole, trees, read, missing)


def from_dict(kind: type[C], mapping: Mapping[str, Any], *, source: str) -> C:
    """Build the configuration that `to_dict` wrote; `source` identifies it in errors."""
    tree = to_dict(mapping)
    return _build(kind, tree, [tree], [(f"in {source}", tree)])


def _build(
    kind: type[C], whole: Tree, trees: Sequence[Tree], read: list[tuple[str, Tree]], fault: str = ""
) -> C:
    tree, faults = _resolved(kind, whole, None, trees), [fault] if fault else []
    try:
        config = kind.model_validate_json(json.dumps(tree))
    except ValidationError as error:
        faults = [*sentences(error, kind, tree, read), *faults]
    if faults:
        raise ConfigError("\n".join(faults))
    return config


def to_dict(config: Any) -> Any:
    """Convert a configuration, or another value, to JSON types, including all defaults."""
    return to_jsonable_python(config, serialize_as_any=True)


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
        if value != default_of(field):
            tree[name] = non_default(value) if isinstance(value, BaseModel) else to_dict(value)
    return tree


def _resolved(kind: type[BaseModel], given: Any, start: Any, layers: Sequence[Any]) -> Any:
    """Complete a section with its preset, or with the default `start` of its field.

    `layers` are the recipes and the overrides of this section, of which a later one may replace the
    kind and with it the settings of earlier ones.
    """
    if isinstance(given, str) and hasattr(kind, "presets"):
        given = {PRESET: given}
    if not isinstance(given, dict):
        return given
    layers = [layer if isinstance(layer, dict) else {} for layer in layers]
    if kinds := kinds_of(kind):
        if KIND not in given and start is not None:
            given = {KIND: start.kind} | given
        if (own := kinds.get(str(given.get(KIND)))) is None:
            return given
        given = _without_replaced(kinds, own, given, start, layers)
        kind, start = own, start if isinstance(start, own) else None
    if hasattr(kind, "presets") and PRESET in given:
        preset = given[PRESET] and kind.presets().get(str(given[PRESET]))
        if preset or given[PRESET] is None:
            start = preset or start
            given = {name: value for name, value in given.items() if name != PRESET}
    whole = dict(given)
    for name, field in kind.model_fields.items():
        if name not in whole:
            if start is not None:
                whole[name] = to_dict(getattr(start, name))
            continue
        if (section := section_of(field.annotation)) is None:
            continue
        value, below = whole[name], [value_at(layer, name) for layer in layers]
        if isinstance(value, list) or (isinstance(value, dict) and is_mapping(field.annotation)):
            items = value.items() if isinstance(value, dict) else enumerate(value)
            done = {
                key: _resolved(section, item, None, [value_at(it, str(key)) for it in below])
                for key, item in items
            }
            whole[name] = done if isinstance(value, dict) else [*done.values()]
        else:
            default = default_of(field) if start is None else getattr(start, name)
            default = default if isinstance(default, BaseModel) else None
            whole[name] = _resolved(section, value, default, below)
    return whole


def _without_replaced(
    kinds: Mapping[str, type[BaseModel]],
    own: type[BaseModel],
    given: Tree,
    start: BaseModel | None,
    layers: Sequence[Tree],
) -> Tree:
    """Drop the settings of another kind, if a later layer than theirs chooses this kind.

    Settings of both kinds are kept, unless this kind has its own default for them.
    """
    chosen = max((at for at, layer in enumerate(layers) if KIND in layer), default=0)
    earlier = [layer[KIND] for layer in layers[:chosen] if str(layer.get(KIND)) in kinds]
    before = kinds.get([getattr(start, KIND, None), *earlier][-1] or next(iter(kinds)), own)
    if before is own:
        return given
    old, new = before.model_fields, own.model_fields
    later = {name for layer in layers[chosen:] for name in layer}

    def is_replaced(name: str) -> bool:
        if name in later or name not in old:
            return False
        return name not in new or not (
            new[name].is_required() or default_of(new[name]) == default_of(old[name])
        )

    return {name: value for name, value in given.items() if not is_replaced(name)}
