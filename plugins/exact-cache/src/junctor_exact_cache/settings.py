"""The section `exact_cache` of the YAML file."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from junctor import Duration, PluginSettings, Section
from pydantic import BeforeValidator, ByteSize, Field, SecretStr, model_validator

__all__ = ["ExactCacheSettings", "MatchSettings", "RuleSettings", "StoreSettings"]


def _names(value: object) -> object:
    return [value] if isinstance(value, str) else value


Names = Annotated[tuple[str, ...], BeforeValidator(_names)]
"""One name or a list of them."""

_HeaderName = Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
_KIB, _MIB = 1024, 1024 * 1024


class StoreSettings(Section):
    """Where answers are kept."""

    url: Annotated[
        SecretStr,
        Field(description="`memory://`, `redis://…`, `rediss://…`, `sqlite:///relative.db`, `sqlite:////absolute.db`."),
    ] = SecretStr("memory://")
    max_bytes: Annotated[
        ByteSize, Field(ge=_MIB, description="Memory and SQLite: what was used least recently goes first.")
    ] = ByteSize(128 * _MIB)
    page_cache: Annotated[ByteSize, Field(ge=64 * _KIB, description="SQLite: memory for the file's pages.")] = ByteSize(
        16 * _MIB
    )
    prefix: Annotated[str, Field(min_length=1, description="Redis: begins every key.")] = "junctor:exact:"
    timeout: Annotated[Duration, Field(gt=0, description="Longest time for one call of the store.")] = 0.05


class MatchSettings(Section):
    """What a rule applies to; what is not given matches all."""

    model: Names = ()
    team: Names = ()
    task: Names = ()
    operation: Names = ()


class RuleSettings(Section):
    """How long answers of some requests live."""

    match: MatchSettings = MatchSettings()
    ttl: Annotated[Duration, Field(description="0 caches nothing.")]


class ExactCacheSettings(PluginSettings):
    """Which answers are kept, for whom, how long, and where."""

    on_failure: Literal["open", "closed"] = "open"
    store: StoreSettings = StoreSettings()
    secret: Annotated[
        SecretStr | None,
        Field(min_length=16, description="Keys the digests; Redis and SQLite need one, as `${JUNCTOR_CACHE_SECRET}`."),
    ] = None
    scope: Annotated[
        Literal["key", "team", "project", "global"], Field(description="Who may get an answer that somebody else paid.")
    ] = "team"
    scope_header: Annotated[
        _HeaderName | None, Field(description="A header that divides the scope further, such as `x-tenant-id`.")
    ] = None
    ttl: Annotated[Duration, Field(description="How long an answer lives.")] = 3600.0
    max_ttl: Annotated[Duration, Field(description="The longest that a client may ask for.")] = 7 * 86400.0
    rules: Annotated[tuple[RuleSettings, ...], Field(description="The first that matches gives the TTL.")] = ()
    targets: Annotated[
        Literal["set", "first"],
        Field(description="`set`: an answer of any target of the route will do; `first`: only of the one chosen."),
    ] = "set"
    template_headers: Annotated[
        tuple[_HeaderName, ...],
        Field(description="The version of the client's prompt template; the first one present."),
    ] = ("x-junctor-template-version", "x-prompt-version")
    key_headers: Annotated[tuple[_HeaderName, ...], Field(description="Further headers that change the answer.")] = (
        "anthropic-beta",
        "anthropic-version",
        "openai-beta",
    )
    ignore: Annotated[tuple[str, ...], Field(description="Fields of the body that do not change the answer.")] = (
        "prompt_cache_key",
        "safety_identifier",
    )
    max_temperature: Annotated[
        float | None, Field(description="Requests above it pass by; none: whatever the temperature.")
    ] = 1.0
    tool_calls: Annotated[bool, Field(description="Also keep answers that call tools.")] = False
    max_entry: Annotated[ByteSize, Field(ge=_KIB, description="Larger answers are not kept.")] = ByteSize(_MIB)
    compress_above: Annotated[ByteSize, Field(description="Answers from this size on are compressed.")] = ByteSize(
        4 * _KIB
    )
    one_flight: Annotated[bool, Field(description="Equal requests in flight wait for the first.")] = True
    flight_wait: Annotated[Duration, Field(description="Longest wait for another's answer to begin.")] = 120.0
    flight_buffer: Annotated[ByteSize, Field(ge=_KIB, description="How far a client may lag behind its stream.")] = (
        ByteSize(4 * _MIB)
    )
    flight_patience: Annotated[
        Duration, Field(gt=0, description="How long one that lags further holds up the others before it is cut off.")
    ] = 5.0
    flight_cost: Annotated[
        Literal["leader", "split"], Field(description="Who is charged, in the log, when several wait for one answer.")
    ] = "leader"
    client_control: Annotated[bool, Field(description="Heed Cache-Control and x-junctor-cache-* of clients.")] = True

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        """`store: redis://…` is short for `store: {url: redis://…}`."""
        if isinstance(value, dict) and isinstance(value.get("store"), str):
            return {**value, "store": {"url": value["store"]}}
        return value

    @model_validator(mode="after")
    def _consistent(self) -> ExactCacheSettings:
        url = self.store.url.get_secret_value()
        if url != "memory://" and not url.startswith(("redis://", "rediss://", "unix://", "sqlite:///")):
            raise ValueError("store.url: use memory://, redis://…, rediss://… or sqlite:///FILE")
        if url != "memory://" and self.secret is None:
            raise ValueError(
                "secret: a store that outlives the process needs one; set `secret: ${JUNCTOR_CACHE_SECRET}` "
                "(`openssl rand -hex 32` makes one), the same for all replicas"
            )
        if self.max_ttl < self.ttl:
            raise ValueError("max_ttl: is shorter than ttl")
        return self
