"""The section `quotas` of the YAML file."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from junctor import Duration, NanoDollars, PluginSettings, Section
from pydantic import BeforeValidator, Field, field_validator, model_validator

from junctor_quotas.windows import Window, parse_window

__all__ = ["ATTRIBUTES", "DIMENSIONS", "LimitSettings", "QueueSettings", "QuotaSettings", "Rung"]

ATTRIBUTES = ("team", "project", "feature", "key", "end_user", "tier", "model", "target", "tag")
DIMENSIONS = ("requests", "tokens", "input_tokens", "output_tokens", "cost", "concurrency")
_ACTIONS = ("warn", "prefer_cheaper", "queue", "refuse")
_SHARE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*%\s*")

Many = Annotated[list[str], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


class Rung(Section):
    """One step of the ladder: from this share of the limit on, this is done."""

    share: Annotated[float, Field(gt=0)]
    action: Literal["warn", "prefer_cheaper", "cap_max_tokens", "queue", "refuse"]
    tokens: Annotated[int, Field(ge=1)] = 1


class LimitSettings(Section):
    """One limit: how much, for whom each, in which time, and what happens on the way there."""

    name: Annotated[str, Field(pattern=r"^[\w.-]*$", description="In errors, headers and reports.")] = ""
    per: Annotated[Many, Field(description="`global`, or any of: " + ", ".join(ATTRIBUTES) + ".")] = Field(
        default_factory=list
    )
    match: Annotated[dict[str, Many], Field(description="Only for these: `{team: search, model: [a, b]}`.")] = Field(
        default_factory=dict
    )
    requests: Annotated[int | None, Field(ge=0)] = None
    tokens: Annotated[int | None, Field(ge=0, description="Input and output.")] = None
    input_tokens: Annotated[int | None, Field(ge=0)] = None
    output_tokens: Annotated[int | None, Field(ge=0)] = None
    cost: Annotated[NanoDollars | None, Field(description="Dollars.")] = None
    concurrency: Annotated[int | None, Field(ge=1, description="Requests at the same time; more of them queue.")] = None
    window: Annotated[str, Field(description="`10s`, `minute`, `hour`: sliding. `day`, `week`, `month`: calendar.")] = (
        ""
    )
    timezone: Annotated[str, Field(description="Where a day begins.")] = "UTC"
    soft: Annotated[str | float | None, Field(description="A share (`80%`) or a value in the limit's unit.")] = None
    on_soft: Annotated[Any, Field(description="What happens from `soft` on; as in `at`.")] = "warn"
    at: Annotated[
        dict[str, Any],
        Field(description="`{70%: warn, 85%: prefer_cheaper, 95%: {cap_max_tokens: 256}, 97%: queue, 100%: refuse}`."),
    ] = Field(default_factory=dict)
    exactness: Annotated[
        Literal["exact", "leased"], Field(description="`leased`: workers take slices, most requests ask nobody.")
    ] = "exact"
    on_store_failure: Annotated[
        Literal["closed", "local"], Field(description="`closed`: 503. `local`: each worker enforces its share.")
    ] = "closed"
    overrun: Annotated[
        Literal["cut", "finish"], Field(description="A stream that goes beyond the limit ends there, or at its end.")
    ] = "cut"

    @field_validator("per")
    @classmethod
    def _known_attributes(cls, value: list[str]) -> list[str]:
        if value == ["global"]:
            return []
        for name in value:
            if name not in ATTRIBUTES:
                raise ValueError(f"'{name}' is not an attribute; use global, or any of {', '.join(ATTRIBUTES)}")
        if "tag" in value and "target" in value:
            raise ValueError("use target or tag, not both")
        return value

    @field_validator("match")
    @classmethod
    def _known_matches(cls, value: dict[str, list[str]]) -> dict[str, list[str]]:
        for name in value:
            if name not in ATTRIBUTES:
                raise ValueError(f"'{name}' is not an attribute; use any of {', '.join(ATTRIBUTES)}")
        return value

    @model_validator(mode="after")
    def _whole(self) -> Self:
        dimensions = [name for name in DIMENSIONS if getattr(self, name) is not None]
        if not dimensions:
            raise ValueError(f"says no amount; give one or more of {', '.join(DIMENSIONS)}")
        if dimensions != ["concurrency"] and not self.window:
            raise ValueError("says no window; write for example `window: minute`, `day`, `month`, `10s`")
        if self.window:
            parse_window(self.window, self.timezone)
        if self.exactness == "leased" and "concurrency" in dimensions:
            raise ValueError("concurrency is always exact")
        if isinstance(self.soft, float) and len(dimensions) > 1:
            raise ValueError("a `soft` value needs a limit of its own for each dimension; or write a share, as 80%")
        self.rungs(1)
        return self

    @property
    def parsed_window(self) -> Window | None:
        return parse_window(self.window, self.timezone) if self.window else None

    def rungs(self, hard: int) -> tuple[Rung, ...]:
        """The ladder, lowest first; `hard` turns a soft value into a share."""
        found = [_rung(_share(at), action) for at, actions in self.at.items() for action in _list(actions)]
        if self.soft is not None:
            soft = _share(self.soft) if isinstance(self.soft, str) else self._value_share(hard)
            found += [_rung(soft, action) for action in _list(self.on_soft)]
        return tuple(sorted(found, key=lambda rung: rung.share))

    def _value_share(self, hard: int) -> float:
        assert isinstance(self.soft, float)
        unit = 1e9 if self.cost is not None else 1.0
        return self.soft * unit / max(1, hard)


def _list(actions: Any) -> list[Any]:
    return actions if isinstance(actions, list) else [actions]


def _share(text: str) -> float:
    match = _SHARE.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a share; write for example 80%")
    return float(match[1]) / 100


def _rung(share: float, action: Any) -> Rung:
    if action in _ACTIONS:
        return Rung(share=share, action=action)
    if isinstance(action, dict) and set(action) == {"cap_max_tokens"}:
        return Rung(share=share, action="cap_max_tokens", tokens=action["cap_max_tokens"])
    raise ValueError(f"{action!r} is no action; use {', '.join(_ACTIONS)}, or {{cap_max_tokens: 256}}")


class QueueSettings(Section):
    """Requests that wait for a place under a concurrency limit, or behind a `queue` rung."""

    max_length: Annotated[
        int, Field(ge=0, description="Waiting requests for each limit and scope; 0: nobody waits.")
    ] = 100
    max_wait: Annotated[Duration, Field(description="Longest wait.")] = 30.0
    tiers: Annotated[
        list[str] | dict[str, float],
        Field(description="A list: the first goes first, always. A mapping: weights, `{gold: 4, free: 1}`."),
    ] = Field(default_factory=dict)
    weights: Annotated[dict[str, float], Field(description="A team's share of the places, 1 if not named.")] = Field(
        default_factory=dict
    )

    @field_validator("tiers", "weights")
    @classmethod
    def _positive(cls, value: Any) -> Any:
        if isinstance(value, dict) and any(weight <= 0 for weight in value.values()):
            raise ValueError("a weight must be more than 0")
        return value


class QuotaSettings(PluginSettings):
    """Limits, the queue, and how long what is reserved is kept for a worker that does not answer."""

    limits: Annotated[list[LimitSettings], Field(description="All that apply must have room.")] = Field(
        default_factory=list
    )
    queue: QueueSettings = QueueSettings()
    lease: Annotated[Duration, Field(ge=0.5, description="A dead worker's reservations return after this.")] = 30.0
    replicas: Annotated[int, Field(ge=1, description="Gateways that share the limits, for `local` shares.")] = 1
    expected_output: Annotated[int, Field(ge=1, description="Tokens, for a model that is not known yet.")] = 512
    slice: Annotated[float, Field(gt=0, le=0.5, description="A worker's slice of a leased limit, as a share.")] = 0.05

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        names = [name for limit in self.limits for name in limit_names(limit)]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two limits are called '{twice[0]}'; give each a `name` of its own")
        return self


def limit_names(limit: LimitSettings) -> list[str]:
    """What the limit's dimensions are called: its name, with the dimension if there are several."""
    dimensions = [name for name in DIMENSIONS if getattr(limit, name) is not None]
    base = limit.name or "-".join([*(limit.per or ["global"]), limit.window or "concurrency"])
    if limit.name and len(dimensions) == 1:
        return [base]
    return [f"{base}-{dimension}" if dimension != base.rsplit("-", 1)[-1] else base for dimension in dimensions]
