"""JSON in and out: orjson, and the standard library where orjson is stricter than the world is.

JavaScript clients cut strings in the middle of an emoji and send lone surrogates; those are carried through, escaped.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

import orjson

__all__ = ["canonical", "depth_over", "dumps", "loads"]


def loads(data: bytes | bytearray | memoryview | str) -> Any:
    """Parse; raises ValueError for what is not JSON (NaN and Infinity included) or nested too deep to parse."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError as error:
        text = data if isinstance(data, str) else bytes(data)
        if "surrogate" not in str(error) and "hex escape" not in str(error):
            raise
        try:
            return json.loads(text, parse_constant=_refuse)
        except RecursionError:
            raise ValueError("nested too deep") from None


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def dumps(value: Any) -> bytes:
    """Serialise compactly as UTF-8; lone surrogates stay escaped."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":"), allow_nan=False).encode()


def canonical(value: Any) -> bytes:
    """One form for all ways to write the same JSON: keys sorted, no whitespace."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # lone surrogates, integers over 64 bits
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def depth_over(value: Any, limit: int) -> bool:
    """Tell whether lists and objects are nested deeper than `limit`; without recursion."""
    level = [value]
    for _ in range(limit):
        level = [
            child
            for item in level
            for child in (item.values() if isinstance(item, dict) else item)
            if isinstance(child, (dict, list))
        ]
        if not level:
            return False
    return True
