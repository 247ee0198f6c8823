"""The YAML file as typed models.

Environment beats file beats default: `JUNCTOR_SERVER__PORT=9000`. `${NAME}` as a whole value is the environment
variable NAME. A duration is seconds or text such as `500ms`, `30s`, `10m`, `1h`, `7d`; money is dollars.
"""

from __future__ import annotations

import re
from decimal import Decimal, InvalidOperation
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, SecretStr, WithJsonSchema, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from junctor.exchange import Timeouts
from junctor.prices import Price
from junctor.secrets import Headers  # noqa: TC001 (pydantic reads it)

__all__ = [
    "Duration",
    "ModelSettings",
    "NanoDollars",
    "PluginSettings",
    "Section",
    "ServerSettings",
    "Settings",
    "StateSettings",
    "TargetSettings",
    "TimeoutSettings",
]

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)\s*")


def _seconds(value: object) -> object:
    if isinstance(value, str):
        match = _DURATION.fullmatch(value)
        if match is None:
            raise ValueError(f"{value!r} is not a duration; write seconds, or for example 500ms, 30s, 10m, 1h, 7d")
        return float(match[1]) * _UNITS[match[2]]
    return value


def _nano_dollars(value: object) -> object:
    if isinstance(value, (str, int, float)) and not isinstance(value, bool):
        try:
            return int((Decimal(str(value).strip().removeprefix("$")) * 10**9).to_integral_value())
        except (InvalidOperation, ValueError):
            raise ValueError(f"{value!r} is not an amount of dollars; write for example 0.15 or $20") from None
    return value


Duration = Annotated[
    float, BeforeValidator(_seconds), Field(ge=0), WithJsonSchema({"type": "string", "format": "duration"})
]
"""Seconds; in the file also `500ms`, `30s`, `10m`, `1h`, `7d`."""

NanoDollars = Annotated[
    int, BeforeValidator(_nano_dollars), Field(ge=0), WithJsonSchema({"type": "number", "format": "dollars"})
]
"""Integer nano-dollars; in the file an amount of dollars: `0.15`, `$20`."""


class Section(BaseModel):
    """The base of every section: a key that is not known is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class PluginSettings(Section):
    """What every plugin's section understands. A plugin derives its own model from this one."""

    timeout: Annotated[Duration | None, Field(description="Longest time for one hook of this plugin.")] = None
    on_failure: Annotated[
        Literal["open", "closed"],
        Field(description="A hook that fails: `closed` refuses the request, `open` goes on without the plugin."),
    ] = "closed"


class TimeoutSettings(Section):
    """Time-outs; what is not given is inherited from the level above."""

    connect: Annotated[Duration | None, Field(description="Connecting to the provider.")] = None
    first_byte: Annotated[Duration | None, Field(description="From the call to the answer's first chunk.")] = None
    between_chunks: Annotated[Duration | None, Field(description="Silence within a stream.")] = None
    total: Annotated[Duration | None, Field(description="The whole exchange, all attempts together.")] = None

    def over(self, base: Timeouts) -> Timeouts:
        given = self.model_dump(exclude_none=True)
        return Timeouts(**{name: given.get(name, getattr(base, name)) for name in Timeouts.__dataclass_fields__})


class PriceSettings(Section):
    """Dollars per million tokens."""

    input: NanoDollars
    output: NanoDollars = 0
    cache_read: NanoDollars | None = None
    cache_write: NanoDollars | None = None

    def price(self) -> Price:
        return Price(self.input, self.output, self.cache_read, self.cache_write)


class TargetSettings(Section):
    """One target of a model."""

    target: Annotated[str, Field(pattern=r"^[^/\s]+/\S+$", description="`provider/model`, as `openai/gpt-4o-mini`.")]
    api_key: Annotated[SecretStr | None, Field(description="The provider's key, as `${OPENAI_API_KEY}`.")] = None
    api_keys: Annotated[
        dict[str, SecretStr], Field(description="Several keys by name; each is a target of its own.")
    ] = {}
    base_url: Annotated[str | None, Field(pattern=r"^https?://", description="Address up to and with `/v1`.")] = None
    wire: Annotated[str, Field(description="The wire that the target speaks.")] = "openai"
    headers: Annotated[
        Headers,
        Field(description="Sent to the provider. Secret, but for plain words of the file under a plain name."),
    ] = {}
    params: Annotated[dict[str, Any], Field(description="Defaults for what the client's body leaves out.")] = {}
    weight: Annotated[float, Field(ge=0, description="Share among the targets, for weighted routing.")] = 1.0
    tags: Annotated[list[str], Field(description="Free labels that rules can name: `eu`, `zdr`, `premium`.")] = []
    price: Annotated[PriceSettings | None, Field(description="Beats the price list.")] = None
    context_window: Annotated[int | None, Field(gt=0, description="Tokens.")] = None
    supports: Annotated[list[str] | None, Field(description="`tools`, `vision`, `json_schema`, `streaming` …")] = None
    requests_per_minute: Annotated[int | None, Field(gt=0, description="The provider's own limit.")] = None
    tokens_per_minute: Annotated[int | None, Field(gt=0, description="The provider's own limit.")] = None
    timeouts: TimeoutSettings = TimeoutSettings()

    @model_validator(mode="after")
    def _one_way_to_give_keys(self) -> TargetSettings:
        if self.api_key is not None and self.api_keys:
            raise ValueError("give api_key or api_keys, not both")
        return self


class ModelSettings(Section):
    """A name that clients ask for, and where its requests may go."""

    name: Annotated[str, Field(min_length=1, description="What clients write in `model`.")]
    targets: Annotated[list[TargetSettings], Field(min_length=1)]
    timeouts: TimeoutSettings = TimeoutSettings()


class ServerSettings(Section):
    """The address, the processes and the limits of what is taken in."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 4000
    workers: Annotated[int, Field(ge=1, le=256, description="Processes that share the port.")] = 1
    max_body: Annotated[ByteSize, Field(description="Largest request body.")] = ByteSize(32 * 1024 * 1024)
    max_depth: Annotated[int, Field(ge=4, le=900, description="Deepest nesting of a request's JSON.")] = 100
    shutdown_grace: Annotated[Duration, Field(description="Time for running exchanges at SIGTERM.")] = 30.0
    settle_timeout: Annotated[Duration, Field(description="Longest time for all `post_call` hooks.")] = 10.0
    keep_alive_comment: Annotated[
        Duration | None, Field(description="Send an SSE comment after this much silence.")
    ] = None
    max_attempts: Annotated[int, Field(ge=1, le=50, description="Calls of targets in one exchange, at the most.")] = 10
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class StateSettings(Section):
    """Coordination state: counters, leases, breakers. `memory://` is one process; Redis is shared."""

    url: Annotated[
        SecretStr,
        Field(description="`memory://`, `redis://…`, `rediss://…`, `redis+cluster://…`, `redis+sentinel://…`."),
    ] = SecretStr("memory://")
    prefix: Annotated[str, Field(description="Begins every key in Redis.")] = "junctor:"
    timeout: Annotated[Duration, Field(description="Longest time for one call of the store.")] = 0.025
    max_entries: Annotated[int, Field(ge=1000, description="Keys kept by `memory://`; the oldest go first.")] = 200_000


class AdminSettings(Section):
    """The paths below `/admin`, and the dashboard. Off without a key."""

    key: Annotated[SecretStr | None, Field(min_length=16, description="Sent as `Authorization: Bearer …`.")] = None


class Settings(BaseSettings):
    """The whole file."""

    model_config = SettingsConfigDict(
        extra="forbid",
        frozen=True,
        env_prefix="JUNCTOR_",
        env_nested_delimiter="__",
        hide_input_in_errors=True,
        nested_model_default_partial_update=True,
    )

    server: ServerSettings = ServerSettings()
    state: StateSettings = StateSettings()
    admin: AdminSettings = AdminSettings()
    timeouts: TimeoutSettings = TimeoutSettings()
    models: list[ModelSettings] = []
    plugins: Annotated[list[str | dict[str, Any]], Field(description="First runs first; `post_call` in reverse.")] = []

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The file arrives as arguments; the environment goes before it."""
        return (env_settings, init_settings)
