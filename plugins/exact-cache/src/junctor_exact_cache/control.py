"""What a client says about caching with its request: Cache-Control and x-junctor-cache-*."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from junctor import BadRequest

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["NOTHING_SAID", "Control", "read_control"]

MAX_TAGS = 16
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,63}")
_TTL = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s*(ms|s|m|h|d|w)?")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_HEADERS = ("cache-control", "x-junctor-cache-ttl", "x-junctor-cache-tags")


class Control(NamedTuple):
    """`no_cache`: ask the provider. `no_store`: and keep nothing. `max_age`, `ttl`: seconds, None if not said."""

    no_cache: bool = False
    no_store: bool = False
    only_if_cached: bool = False
    max_age: float | None = None
    ttl: float | None = None
    tags: tuple[str, ...] = ()


NOTHING_SAID = Control()


def read_control(headers: Mapping[str, str]) -> Control:
    """Read the headers. Unknown directives are passed over, as HTTP asks; raises `BadRequest` for our own headers."""
    said, ttl, tags = (headers.get(name) for name in _HEADERS)
    if said is None and ttl is None and tags is None:
        return NOTHING_SAID
    directives: dict[str, str] = {}
    for part in (said or "").lower().split(","):
        name, _, value = part.strip().partition("=")
        directives[name] = value.strip(' "')
    age = directives.get("max-age", "")
    return Control(
        no_cache="no-cache" in directives,
        no_store="no-store" in directives,
        only_if_cached="only-if-cached" in directives,
        max_age=float(age) if age.isdecimal() and age.isascii() and len(age) < 12 else None,
        ttl=_read_ttl(ttl) if ttl is not None else None,
        tags=_read_tags(tags) if tags else (),
    )


def _read_ttl(text: str) -> float:
    match = _TTL.fullmatch(text.strip())
    if match is None:
        raise BadRequest(
            "'x-junctor-cache-ttl' must be a duration: seconds, or for example 30s, 10m, 1h",
            param="x-junctor-cache-ttl",
            code="invalid_value",
        )
    return float(match[1]) * _UNITS[match[2] or "s"]


def _read_tags(text: str) -> tuple[str, ...]:
    tags = tuple(dict.fromkeys(tag.strip() for tag in text.split(",") if tag.strip()))
    if len(tags) > MAX_TAGS or not all(map(_TAG.fullmatch, tags)):
        raise BadRequest(
            f"'x-junctor-cache-tags' must be at most {MAX_TAGS} names of letters, digits and ._:/@-, of at most 64 "
            "characters, with commas between them",
            param="x-junctor-cache-tags",
            code="invalid_value",
        )
    return tags
