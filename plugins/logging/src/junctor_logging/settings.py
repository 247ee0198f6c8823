"""The plugin's section of the YAML file."""

from __future__ import annotations

import os
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Annotated, Any, Literal

from junctor import Duration, PluginSettings, Section
from pydantic import BeforeValidator, ByteSize, Field, WithJsonSchema

__all__ = ["ContentRule", "LoggingSettings", "Share", "SpoolSettings", "default_directory"]


def _share(value: object) -> object:
    if isinstance(value, str):
        try:
            return float(Decimal(value.strip().removesuffix("%")) / (100 if "%" in value else 1))
        except InvalidOperation:
            raise ValueError(f"{value!r} is not a share; write for example 10% or 0.1") from None
    return value


Share = Annotated[
    float, BeforeValidator(_share), Field(ge=0, le=1), WithJsonSchema({"type": "string", "format": "share"})
]
"""A number from 0 to 1; in the file also `10%`."""


def default_directory() -> Path:
    """`$XDG_STATE_HOME/junctor`, or `~/.local/state/junctor`."""
    base = os.environ.get("XDG_STATE_HOME")
    return (Path(base) if base else Path("~/.local/state").expanduser()) / "junctor"


class SpoolSettings(Section):
    """Where records wait on disk while a sink cannot take them."""

    max_size: Annotated[ByteSize, Field(description="For each sink; what is more is dropped, and counted.")] = ByteSize(
        1024**3
    )
    retry: Annotated[Duration, Field(gt=0, description="First wait before a sink is tried again; it doubles.")] = 0.5
    longest_retry: Annotated[Duration, Field(gt=0, description="Longest wait before a sink is tried again.")] = 30.0


class ContentRule(Section):
    """Whose prompts and answers are recorded, how much of them, and for how long. The first rule that fits holds."""

    teams: Annotated[list[str] | None, Field(description="Teams; without it, all.")] = None
    models: Annotated[list[str] | None, Field(description="Models as clients ask for them; without it, all.")] = None
    sample: Annotated[Share, Field(description="Share of the exchanges.")] = 1.0
    max_bytes: Annotated[ByteSize, Field(gt=0, description="Most of a prompt, and of an answer.")] = ByteSize(65536)
    max_text: Annotated[int, Field(gt=0, description="Most characters of one text in it; the rest is cut off.")] = 8000
    redact: Annotated[
        tuple[Literal["email", "phone", "card", "iban", "name"], ...],
        Field(
            description="Replaced by a mark; without it, all but names, which need `names_model`. Keys and passwords "
            "are always replaced."
        ),
    ] = ("email", "phone", "card", "iban")
    retention: Annotated[Duration, Field(gt=0, description="Deleted after this time.")] = 30 * 86400.0


class LoggingSettings(PluginSettings):
    """One record for every exchange."""

    on_failure: Literal["open", "closed"] = "open"
    directory: Annotated[
        Path | None, Field(description="Holds ledger and spool; `~/.local/state/junctor` without it.")
    ] = None
    sinks: Annotated[
        tuple[str | dict[str, Any], ...],
        Field(description="`ledger`, `json_lines`, `otlp`, or an installed one of others."),
    ] = ("ledger",)
    queue: Annotated[
        int, Field(ge=100, description="Most records in memory; what is more is dropped, and counted.")
    ] = 20_000
    batch: Annotated[int, Field(ge=1, le=10_000, description="Most records written at once.")] = 500
    flush: Annotated[Duration, Field(gt=0, le=60, description="Longest time until a record is handed on.")] = 0.25
    close_timeout: Annotated[Duration, Field(gt=0, description="Time for the sinks when the gateway ends.")] = 5.0
    spool: SpoolSettings = SpoolSettings()
    discounts: Annotated[
        dict[str, Share], Field(description="Off the list price, by provider or target: `openai: 10%`.")
    ] = Field(default_factory=dict)
    content: Annotated[tuple[ContentRule, ...], Field(description="Empty: no prompt, no answer is recorded.")] = ()
    names_model: Annotated[
        str, Field(description="An installed spaCy model, such as `en_core_web_sm`, for rules that redact `name`.")
    ] = ""
    recent: Annotated[int, Field(ge=0, le=10_000, description="Records kept in memory for `/admin/exchanges`.")] = 500

    @property
    def folder(self) -> Path:
        """Where ledger and spool lie."""
        return (self.directory or default_directory()).expanduser()
