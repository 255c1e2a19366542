"""Reading the body of an HTTP request: right types or an error that names the field, in OpenAI's shape.

Unknown fields are not looked at, as in OpenAI's API: clients send what other servers know.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

MISSING = object()


class ApiError(Exception):
    """An HTTP error that a client gets."""

    def __init__(self, status: int, message: str, *, param: str | None = None, code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    def body(self) -> dict[str, Any]:
        """As OpenAI's API tells it."""
        kind = TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}


TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 503: "service_unavailable_error"}


def parse_object(data: bytes) -> dict[str, Any]:
    """The JSON object in a body. Raises ApiError for anything else."""
    try:
        value = json.loads(data, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ApiError(400, f"the body is not valid JSON: {reason}", code="invalid_json") from error
    if not isinstance(value, dict):
        raise ApiError(400, f"the body must be a JSON object, not {_kind(value)}", code="invalid_json")
    return value


class Fields:
    """Typed access to an object's fields; null is as good as absent. Every method raises ApiError naming the field."""

    def __init__(self, body: Mapping[str, Any], path: str = ""):
        self._body, self._path = body, path

    def raw(self, name: str) -> Any:
        """The value as it is, or None."""
        return self._body.get(name)

    def error(self, name: str, said: str, code: str | None = None) -> ApiError:
        """A 400 about a field."""
        return ApiError(400, f"{self._path}{name} {said}", param=f"{self._path}{name}", code=code)

    def number(self, name: str, default: float, low: float, high: float) -> float:
        """A number from `low` to `high`."""
        value = self._typed(name, default, (int, float), "a number")
        return float(self._within(name, value, low, high))

    def integer(self, name: str, default: Any, low: int, high: int) -> Any:
        """A whole number from `low` to `high`, or `default`."""
        value = self._typed(name, default, (int,), "an integer")
        return value if value is default else self._within(name, value, low, high)

    def boolean(self, name: str, default: bool = False) -> bool:
        """true or false."""
        value = self._body.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.error(name, f"must be true or false, not {_kind(value)}", "invalid_type")
        return value

    def text(self, name: str, default: Any = MISSING) -> Any:
        """A string; required without a default."""
        value = self._typed(name, default, (str,), "a string")
        if value is MISSING:
            raise self.error(name, "is required", "missing_required_parameter")
        return value

    def texts(self, name: str, most: int) -> tuple[str, ...]:
        """A string or a list of up to `most`; none are empty."""
        value = self._body.get(name)
        values = [] if value is None else [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(text, str) for text in values):
            raise self.error(name, "must be a string or a list of strings", "invalid_type")
        if len(values) > most:
            raise self.error(name, f"has {len(values)} strings; {most} are allowed", "invalid_value")
        if not all(values):
            raise self.error(name, "has an empty string, which would end every answer at once", "invalid_value")
        return tuple(values)

    def integers(self, name: str) -> tuple[int, ...]:
        """A list of integers."""
        value = self._body.get(name)
        if value is None:
            return ()
        if not is_integers(value):
            raise self.error(name, "must be a list of integers", "invalid_type")
        return tuple(value)

    def list_of(self, name: str) -> Sequence[Any]:
        """A list, empty when absent."""
        return self._typed(name, [], (list,), "a list")

    def inside(self, name: str) -> "Fields":
        """The fields of an object in a field."""
        return Fields(self._typed(name, {}, (dict,), "an object"), f"{self._path}{name}.")

    def refuse(self, name: str, allowed: Sequence[Any], why: str) -> None:
        """Raises unless the field is absent or says nothing (one of `allowed`)."""
        value = self._body.get(name)
        if value is not None and not any(value == known and type(value) is type(known) for known in allowed):
            raise self.error(name, f"is not supported: {why}", "unsupported_parameter")

    def _typed(self, name: str, default: Any, types: tuple[type, ...], said: str) -> Any:
        value = self._body.get(name)
        if value is None:
            return default
        if not isinstance(value, types) or isinstance(value, bool):
            raise self.error(name, f"must be {said}, not {_kind(value)}", "invalid_type")
        return value

    def _within(self, name: str, value: Any, low: float, high: float) -> Any:
        if not low <= value <= high:
            raise self.error(name, f"must be from {low} to {high}, got {str(value)[:40]}", "invalid_value")
        return value


def is_integers(value: Any) -> bool:
    """Whether it is a list of integers and nothing else."""
    return isinstance(value, list) and all(type(item) is int for item in value)


def _kind(value: Any) -> str:
    """What JSON calls it."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", int: "an integer"}
    return names.get(type(value), "null" if value is None else "a number")


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
