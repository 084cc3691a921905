"""What every spec shares: building from plain values, checking types, merging a form's overrides, canonical JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, Self, Union

from transfer_learning.errors import BadInput, nearest

NOT_IN_FINGERPRINT = {"fingerprint": False}
"""Field metadata for settings that change a result by rounding at most, such as the micro-batch, or not at all."""

SCALARS: dict[Any, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}


@dataclasses.dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Base of all specs: frozen, complete, and checked when built."""

    def __post_init__(self) -> None:
        for name, hint in _hints(type(self)).items():
            object.__setattr__(self, name, _coerce(f"{type(self).__name__}.{name}", getattr(self, name), hint))
        self.check()

    def check(self) -> None:
        """Check rules across fields; subclasses raise BadInput."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any] | Self) -> Self:
        """Build from plain values.

        Raises:
            BadInput: an unknown key (the nearest is named), a wrong type, a missing or impossible value.
        """
        if isinstance(values, cls):
            return values
        if not isinstance(values, Mapping):
            raise BadInput("BAD_SETTING", f"{cls.__name__} is built from a dict, found {type(values).__name__}")
        _refuse_unknown(cls, values)
        missing = sorted(_required(cls) - values.keys())
        if missing:
            raise BadInput("MISSING_SETTING", f"{cls.__name__} needs {', '.join(missing)}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Return every field as JSON-ready values."""
        return {field.name: _plain(getattr(self, field.name)) for field in dataclasses.fields(self)}

    def canonical(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults and can change the result: what a fingerprint covers."""
        chosen = {}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.metadata.get("fingerprint", True) and value != _default(field):
                chosen[field.name] = value.canonical() if isinstance(value, Settings) else _plain(value)
        return chosen

    def merged(self, overrides: Mapping[str, Any]) -> Self:
        """Return a copy with ``overrides`` applied; nested dicts merge into nested specs, and into dicts key by key.

        So a form whose fields were left empty takes nothing away, such as a floor of the gate.

        Raises:
            BadInput: as ``from_dict``.
        """
        _refuse_unknown(type(self), overrides)
        changed = {}
        for name, value in overrides.items():
            current = getattr(self, name)
            if isinstance(current, Settings) and isinstance(value, Mapping):
                value = current.merged(value)
            elif isinstance(current, Mapping) and isinstance(value, Mapping):
                value = {**current, **value}
            elif value == {}:
                value = current
            changed[name] = value
        return dataclasses.replace(self, **changed)


def canonical_json(value: Any) -> str:
    """Return JSON with sorted keys and no white space, the same for the same value everywhere.

    Raises:
        ValueError: NaN or infinity, which JSON does not have.
    """
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _refuse_unknown(cls: type[Settings], values: Mapping[str, Any]) -> None:
    names = [field.name for field in dataclasses.fields(cls)]
    for key in values:
        if key not in names:
            raise BadInput(
                "UNKNOWN_SETTING",
                f"{cls.__name__} has no setting {str(key)!r}{nearest(str(key), names)}",
                f"known: {', '.join(names)}",
            )


def _required(cls: type[Settings]) -> set[str]:
    return {field.name for field in dataclasses.fields(cls) if _default(field) is dataclasses.MISSING}


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else field.default


def _hints(cls: type[Settings]) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _plain(value: Any) -> Any:
    if isinstance(value, Settings):
        return value.to_dict()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


def _coerce(where: str, value: Any, hint: Any) -> Any:
    """Return ``value`` as ``hint`` wants it, or raise one line; JSON lists become tuples, dicts become specs."""
    _check_size(where, value)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        return _coerce_union(where, value, arguments)
    if origin is typing.Literal:
        if value not in arguments:
            raise _wrong(where, value, _wanted(hint, value))
        return value
    if isinstance(hint, type) and issubclass(hint, Settings):
        return hint.from_dict(value)
    if origin is tuple:
        if not isinstance(value, (list, tuple)):
            raise _wrong(where, value, "a list")
        return tuple(_coerce(f"{where}[{i}]", item, arguments[0]) for i, item in enumerate(value))
    if origin in (dict, Mapping):
        if not isinstance(value, Mapping):
            raise _wrong(where, value, "a dict")
        return {
            _coerce(where, key, arguments[0]): _coerce(f"{where}[{key!r}]", item, arguments[1]) for key, item in value.items()
        }
    return _coerce_scalar(where, value, hint)


def _check_size(where: str, value: Any) -> None:
    """Refuse what neither a file nor a library takes."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise BadInput("BAD_SETTING", f"{where} needs more than 64 bits", "write a smaller number")
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise BadInput("BAD_SETTING", f"{where} holds half a surrogate pair", "write the text again")


def _coerce_union(where: str, value: Any, options: tuple[Any, ...]) -> Any:
    if value is None and type(None) in options:
        return None
    rest = [option for option in options if option is not type(None)]
    for option in rest:
        try:
            return _coerce(where, value, option)
        except BadInput as error:
            problem = error
    wanted = [_wanted(option, value) for option in rest]
    raise _wrong(where, value, " or ".join(wanted)) if len(rest) > 1 and all(wanted) else problem


def _coerce_scalar(where: str, value: Any, hint: Any) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if (isinstance(value, bool) and hint is not bool) or not isinstance(value, hint):
        raise _wrong(where, value, _wanted(hint, value))
    if isinstance(value, float) and not math.isfinite(value):
        raise _wrong(where, value, "a finite number")
    return value


def _wanted(hint: Any, value: Any) -> str:
    """Return what a number, a text or a choice is to be, empty for anything that holds others."""
    if typing.get_origin(hint) is typing.Literal:
        known = typing.get_args(hint)
        return f"one of {', '.join(map(repr, known))}{nearest(str(value), known)}"
    return SCALARS.get(hint, "")


def _wrong(where: str, value: Any, wanted: str) -> BadInput:
    return BadInput("BAD_SETTING", f"{where} must be {wanted}, found {str(value)[:80]!r}")
