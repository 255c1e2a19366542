"""Configs: Python files outside, frozen dataclasses inside (house idea 7).

`configs/x.py` has `get_config(variant)` returning an `ml_collections.ConfigDict`, usually `thaw(SomeConfig(...))`. The
command line overrides its leaves (`--config.a.b=c`). At the door `freeze` turns it into the frozen, keyword-only
dataclass that lives beside the code that reads it: unknown keys fail with the nearest name, wrong types name the field,
and each dataclass checks its own values in `__post_init__`.
"""

import dataclasses
import difflib
import json
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ml_collections import config_dict

T = TypeVar("T")


def freeze(cls: type[T], config: Mapping[str, Any], path: str = "config") -> T:
    """`config` (a ConfigDict or nested dict) as an instance of dataclass `cls`, checked key by key.

    Raises ValueError naming the field for an unknown key, a missing required key, a value of the wrong type, or a value
    that `cls` itself refuses.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for key in config:
        if key not in fields:
            raise ValueError(f"{path}.{key} is not a setting{_nearest(key, fields)}")
    values = {key: _convert(hints[key], config[key], f"{path}.{key}") for key in config}
    missing = [name for name, field in fields.items() if name not in values and _is_required(field)]
    if missing:
        raise ValueError(f"{path}.{missing[0]} is required")
    try:
        return cls(**values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def thaw(instance: Any) -> config_dict.ConfigDict:
    """A dataclass instance as a ConfigDict whose leaves the command line may override (None keeps its type)."""
    hints = typing.get_type_hints(type(instance))
    config = config_dict.ConfigDict(sort_keys=False)
    for field in dataclasses.fields(instance):
        value = getattr(instance, field.name)
        config[field.name] = _placeholder(hints[field.name]) if value is None else _thaw_value(value)
    return config


def to_dict(instance: Any) -> dict[str, Any]:
    """A dataclass instance as plain nested dicts and lists, ready for JSON; `freeze` reads it back."""
    return json.loads(json.dumps(dataclasses.asdict(instance)))


def _thaw_value(value: Any) -> Any:
    if dataclasses.is_dataclass(value):
        return thaw(value)
    if isinstance(value, Mapping):
        return config_dict.ConfigDict({key: _thaw_value(item) for key, item in value.items()}, sort_keys=False)
    if isinstance(value, tuple | list):
        return tuple(_thaw_value(item) for item in value)
    return value


def _placeholder(hint: Any) -> config_dict.FieldReference:
    kind = next((arm for arm in typing.get_args(hint) if arm is not type(None)), object)
    return config_dict.placeholder(kind if kind in (int, float, str, bool) else object)


def _convert(hint: Any, value: Any, path: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(hint, value, path)
    if dataclasses.is_dataclass(hint):
        if dataclasses.is_dataclass(value):
            value = dataclasses.asdict(value)  # type: ignore[arg-type]
        _require(isinstance(value, Mapping | config_dict.ConfigDict), hint, value, path)
        return freeze(hint, value, path)  # type: ignore[arg-type]
    if origin is tuple:
        return _convert_tuple(hint, value, path)
    if origin in (dict, Mapping, typing.get_origin(Mapping[str, int])):
        _require(isinstance(value, Mapping | config_dict.ConfigDict), hint, value, path)
        return {key: _convert(typing.get_args(hint)[1], value[key], f"{path}.{key}") for key in value}
    return _convert_scalar(hint, value, path)


def _convert_union(hint: Any, value: Any, path: str) -> Any:
    arms = [arm for arm in typing.get_args(hint) if arm is not type(None)]
    if value is None:
        _require(len(arms) < len(typing.get_args(hint)), hint, value, path)
        return None
    return _convert(arms[0], value, path)


def _convert_tuple(hint: Any, value: Any, path: str) -> tuple:
    _require(isinstance(value, Sequence) and not isinstance(value, str), hint, value, path)
    arms = typing.get_args(hint)
    if arms[-1] is Ellipsis:
        arms = (arms[0],) * len(value)
    if len(arms) != len(value):
        raise ValueError(f"{path} takes {len(arms)} values, got {len(value)}")
    return tuple(_convert(arm, item, f"{path}[{i}]") for i, (arm, item) in enumerate(zip(arms, value, strict=True)))


def _convert_scalar(hint: Any, value: Any, path: str) -> Any:
    if hint is Any:
        return value
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if hint is float and is_number:
        return float(value)
    if hint is int and is_number and value == int(value):
        return int(value)
    _require(isinstance(value, hint) and isinstance(value, bool) == (hint is bool), hint, value, path)
    return value


def _require(condition: bool, hint: Any, value: Any, path: str) -> None:
    if not condition:
        name = getattr(hint, "__name__", str(hint))
        raise ValueError(f"{path} must be {name}, got {value!r}")


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _nearest(key: str, names: Any) -> str:
    near = difflib.get_close_matches(key, list(names), n=1)
    return f"; did you mean {near[0]!r}?" if near else f"; there are {', '.join(names)}"
