"""Write the reference pages from the code: `python docs/generate.py`. A test fails when they are out of date."""

from __future__ import annotations

import inspect
import typing
from pathlib import Path
from typing import Any, get_args, get_origin

from junctor import hookspecs
from junctor.plugins import installed
from junctor.settings import Settings
from pydantic import BaseModel, SecretStr
from pydantic_core import PydanticUndefined

HERE = Path(__file__).parent


def hooks() -> str:
    """`hooks.md`, from the specification's docstrings."""
    lines = ["# The hooks", "", "Written by `docs/generate.py` from `junctor/hookspecs.py`.", ""]
    lines += [inspect.cleandoc(hookspecs.__doc__ or ""), ""]
    names = ["pre_route", "route", "cache_lookup", "call", "on_error", "post_call"]
    names += ["claims", "check", "assets", "http_routes", "cli_commands"]
    for name in names:
        function = getattr(hookspecs, name)
        signature = str(inspect.signature(function)).replace("'", "")
        kind = "async def" if inspect.iscoroutinefunction(function) else "def"
        lines += [f"## `{name}`", "", "```text", f"{kind} {name}{signature}", "```", ""]
        lines += [_with_fences(inspect.cleandoc(function.__doc__ or "")), ""]
    return "\n".join(lines).rstrip() + "\n"


def _with_fences(text: str) -> str:
    """A docstring's indented example as a block of code."""
    lines: list[str] = []
    inside = False
    for line in text.splitlines():
        code = line.startswith("    ")
        if code and not inside:
            lines.append("```python")
        elif inside and not code and line:
            lines.append("```")
        inside = code or (inside and not line)
        lines.append(line[4:] if code else line)
    return "\n".join(lines).rstrip() + ("\n```" if inside else "")


def configuration() -> str:
    """`configuration.md`, from the settings models of the core and of every plugin in this repository."""
    lines = ["# The configuration file", "", "Written by `docs/generate.py` from the settings models.", ""]
    lines += [
        "Environment beats file beats default: `JUNCTOR_SERVER__PORT=9000` is `server.port`. `${NAME}` as a whole",
        "value is the environment variable NAME. A duration is seconds, or text such as `500ms`, `30s`, `10m`, `1h`,",
        "`7d`; money is in US dollars; a size is bytes, or text such as `32MB`. An unknown key is an error.",
        "",
    ]
    seen: set[type] = set()
    _tables(Settings, "The file", lines, seen)
    lines += ["# The plugins", ""]
    for name, point in installed().items():
        if point.dist is None or not point.dist.name.startswith("junctor-") or name == "politeness":
            continue
        model = getattr(point.load(), "Settings", None)
        if model is not None:
            _tables(model, f"`{name}`", lines, seen)
    return "\n".join(lines).rstrip() + "\n"


def _tables(model: type[BaseModel], title: str, lines: list[str], seen: set[type]) -> None:
    """The model's table, then those of the sections in it."""
    if model in seen:
        return
    seen.add(model)
    summary = inspect.cleandoc(model.__doc__ or "")
    lines += [f"## {title}", "", summary, "", "| key | value | default | |", "|---|---|---|---|"]
    inner: list[tuple[str, type[BaseModel]]] = []
    for name, field in model.model_fields.items():
        found = list(_models(field.annotation))
        inner += [(name, each) for each in found]
        default = "required" if field.is_required() else _default(field.get_default(call_default_factory=True))
        text = (field.description or "").replace("|", "\\|").replace("\n", " ")
        lines.append(f"| `{name}` | {_type(field)} | {default} | {text} |")
    lines.append("")
    for name, each in inner:
        _tables(each, f"{title} › {name}" if model is not Settings else f"`{name}`", lines, seen)


def _models(annotation: Any) -> typing.Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _models(part)


def _type(field: Any) -> str:
    for extra in field.metadata:
        schema = getattr(extra, "json_schema", None)
        if isinstance(schema, dict) and "format" in schema:
            return str(schema["format"])
    return _name(field.annotation)


def _name(annotation: Any) -> str:
    origin, parts = get_origin(annotation), get_args(annotation)
    if annotation is type(None):
        return "null"
    if annotation is SecretStr:
        return "secret"
    if origin is typing.Annotated:
        formats = (getattr(extra, "json_schema", None) or {} for extra in parts[1:])
        return next((str(each["format"]) for each in formats if "format" in each), None) or _name(parts[0])
    if origin is typing.Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin in (list, set, frozenset, tuple):
        return "list of " + _name(parts[0]) if parts else "list"
    if origin is dict:
        return f"mapping of {_name(parts[1])}"
    if parts:
        return " or ".join(name for name in dict.fromkeys(map(_name, parts)) if name != "null")
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    plain = {"str": "text", "int": "integer", "float": "number", "bool": "true, false", "ByteSize": "size"}
    label = getattr(annotation, "__name__", str(annotation))
    return plain.get(label, label)


def _default(value: object) -> str:
    if value is None or value is PydanticUndefined or value in ([], {}, ()):
        return ""
    if isinstance(value, BaseModel):
        return ""
    if isinstance(value, dict):
        return "`" + ", ".join(f"{key}: {each}" for key, each in value.items()) + "`"
    if isinstance(value, SecretStr):
        return f"`{value.get_secret_value()}`"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


PAGES = {"hooks.md": hooks, "configuration.md": configuration}


if __name__ == "__main__":
    for page, text in PAGES.items():
        (HERE / page).write_text(text())
