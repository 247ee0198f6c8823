"""The plugin's section of the YAML file."""

from __future__ import annotations

from typing import Annotated, Literal

from junctor import Duration, PluginSettings
from pydantic import Field

__all__ = ["DashboardSettings"]


class DashboardSettings(PluginSettings):
    """One live page for the operator, at `/dashboard`, behind `admin.key`."""

    on_failure: Literal["open", "closed"] = "open"
    session: Annotated[Duration, Field(ge=60, description="How long a login holds.")] = 12 * 3600.0
    login_attempts: Annotated[int, Field(ge=1, le=1000, description="A minute, from one address.")] = 10
    secure_cookie: Annotated[
        bool | None, Field(description="`true` behind a proxy that ends TLS; without it, secure when the gateway is.")
    ] = None
    recent: Annotated[int, Field(ge=10, le=10_000, description="Exchanges kept in memory with their story.")] = 500
    watchers: Annotated[int, Field(ge=1, le=1000, description="Pages open at the same time, in one process.")] = 32
