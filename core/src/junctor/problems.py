"""Say what is wrong with a configuration so that the operator knows what to do."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import ValidationError

__all__ = ["close_match", "problems_of"]


def close_match(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing."""
    matches = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean '{matches[0]}'?" if matches else ""


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[str]:
    """One line a mistake: `limits[0].tokens: Input should be a valid integer`. Never a value: it may be a secret."""
    lines = []
    for mistake in error.errors(include_url=False, include_input=False, include_context=False):
        location = mistake["loc"]
        message = mistake["msg"].removeprefix("Value error, ")
        if mistake["type"] == "extra_forbidden":
            known = _fields_at(model, location[:-1])
            hint = close_match(str(location[-1]), known) or (f" (known: {', '.join(known)})" if known else "")
            message = f"unknown key{hint}"
        elif mistake["type"] == "missing":
            message = "is missing"
        lines.append(f"{_path(location)}: {message}" if location else message)
    return lines


def _path(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".")


def _fields_at(model: Any, location: tuple[int | str, ...]) -> list[str]:
    """The keys that the model at this place knows."""
    for part in location:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part) if model is not None else None
        model = _model_in(field.annotation) if field is not None else None
    return list(model.model_fields) if model is not None else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_in(part)) is not None), None)
