"""The section `routing` of the YAML, typed."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from junctor import Duration, NanoDollars, PluginSettings, Section
from pydantic import ConfigDict, Field, StrictBool, field_validator, model_validator

from junctor_routing.values import HoursText, RangeText, ShareText, WordsText  # noqa: TC001 (pydantic reads them)

__all__ = [
    "ConstraintSettings",
    "RequireSettings",
    "RoutingSettings",
    "RuleSettings",
    "StrategySettings",
    "TaskSettings",
    "TopicSettings",
    "UseSettings",
    "WhenSettings",
]

Kind = Literal[
    "weighted", "ordered", "least_busy", "lowest_latency", "cheapest", "quality", "usage_aware", "sticky", "slo"
]
STICKY_BY = ("session", "key", "client", "team", "project", "user", "request")
_OBJECTIVE = re.compile(r"(ttft|duration)_p(\d\d)")


def _check_key(value: str) -> str:
    if value in STICKY_BY or re.fullmatch(r"(header|metadata):\S+", value):
        return value
    raise ValueError(f"'{value}' is not known; use one of {', '.join(STICKY_BY)}, header:NAME, metadata:NAME")


class WhenSettings(Section):
    """A condition. All that is written must hold; in a list any one; `*` stands for any text. Empty always holds."""

    model_config = ConfigDict(populate_by_name=False)

    model: Annotated[WordsText | None, Field(description="The model that the client asked for.")] = None
    operation: Annotated[WordsText | None, Field(description="`chat`, `completions`, `embeddings` …")] = None
    team: WordsText | None = None
    project: WordsText | None = None
    feature: WordsText | None = None
    tier: WordsText | None = None
    client: Annotated[WordsText | None, Field(description="The client's name.")] = None
    key: Annotated[WordsText | None, Field(description="The id of the client's key.")] = None
    client_tags: dict[str, WordsText] = Field(default_factory=dict, description="Attributes that come with the key.")
    header: dict[str, StrictBool | WordsText] = Field(
        default_factory=dict, description="By name; true: it is there at all."
    )
    metadata: dict[str, StrictBool | WordsText] = Field(
        default_factory=dict, description="The body's `metadata`, by name."
    )
    task: Annotated[WordsText | None, Field(description="`code`, `extraction`, `summarising` …")] = None
    topic: Annotated[WordsText | None, Field(description="A name under `topics`.")] = None
    sensitivity: Annotated[WordsText | None, Field(description="The content policy's label.")] = None
    input_tokens: Annotated[RangeText | None, Field(description="Estimated: `>8000`, `2k..20k`.")] = None
    budget_used: Annotated[RangeText | None, Field(description="Highest used share of a budget: `>85%`.")] = None
    tools: bool | None = None
    images: bool | None = None
    json_schema: bool | None = None
    reasoning: bool | None = None
    stream: bool | None = None
    time: Annotated[HoursText | None, Field(description="`22:00-06:00 Europe/Berlin`, `Mon-Fri 09:00-18:00`.")] = None
    percent: Annotated[float | None, Field(ge=0, le=100, description="A share of the requests: a canary.")] = None
    sticky_by: Annotated[str | None, Field(description="What `percent` keeps together: `key`, `session` …")] = None
    any: Annotated[tuple[WhenSettings, ...], Field(description="At least one of these conditions.")] = ()
    not_: Annotated[WhenSettings | None, Field(alias="not", description="This condition must not hold.")] = None

    _keys = field_validator("sticky_by")(lambda value: value if value is None else _check_key(value))

    @field_validator("header")
    @classmethod
    def _lower(cls, value: dict[str, Any]) -> dict[str, Any]:
        return {name.lower(): wanted for name, wanted in value.items()}

    @model_validator(mode="after")
    def _fits(self) -> WhenSettings:
        if self.sticky_by is not None and self.percent is None:
            raise ValueError("sticky_by goes with percent")
        nested = [*self.any, *([self.not_] if self.not_ else [])]
        if any(part.topic is not None or part._has_topic() for part in nested):
            raise ValueError("topic cannot stand within `any` or `not`")
        return self

    def _has_topic(self) -> bool:
        nested = [*self.any, *([self.not_] if self.not_ else [])]
        return self.topic is not None or any(part._has_topic() for part in nested)


class StrategySettings(Section):
    """How to order the targets that are left. Written as its name, or `name: {its settings}`."""

    kind: Kind = "weighted"
    tiers: Annotated[tuple[list[str], ...], Field(description="ordered: target names or tags, best tier first.")] = ()
    ladder: Annotated[tuple[str, ...], Field(description="quality: tags from the lowest to the highest.")] = (
        "standard",
        "premium",
    )
    tier: Annotated[str | None, Field(description="quality: the tag that is wanted.")] = None
    max_cost: Annotated[NanoDollars | None, Field(description="quality: dearest request, in dollars.")] = None
    by: Annotated[str, Field(description="sticky: what belongs together.")] = "session"
    explore: Annotated[ShareText, Field(ge=0, le=0.5, description="lowest_latency, slo: share that measures anew.")] = (
        0.02
    )
    tolerance: Annotated[ShareText, Field(ge=0, le=1, description="lowest_latency: as good as the best.")] = 0.1
    when_full: Annotated[Literal["try", "refuse"], Field(description="usage_aware: when all limits are reached.")] = (
        "try"
    )
    objectives: dict[str, Duration] = Field(
        default_factory=dict, description="slo: `ttft_p95: 800ms`, `duration_p99: 20s`."
    )
    cost_per_1k_requests: Annotated[NanoDollars | None, Field(description="slo: dollars.")] = None

    _by = field_validator("by")(_check_key)

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"kind": value}
        if isinstance(value, dict) and len(value) == 1 and "kind" not in value:
            name, rest = next(iter(value.items()))
            rest = dict(rest or {})
            objectives = {key: rest.pop(key) for key in list(rest) if _OBJECTIVE.fullmatch(str(key))}
            return {"kind": name, **rest, **({"objectives": objectives} if objectives else {})}
        return value

    @model_validator(mode="after")
    def _whole(self) -> StrategySettings:
        if self.kind == "quality" and self.tier not in self.ladder:
            raise ValueError(f"quality: tier must be one of {', '.join(self.ladder)}")
        if self.kind == "slo" and not self.objectives and self.cost_per_1k_requests is None:
            raise ValueError("slo: name an objective, such as `ttft_p95: 800ms` or `cost_per_1k_requests: $3`")
        if bad := [name for name in self.objectives if not _OBJECTIVE.fullmatch(name)]:
            raise ValueError(f"slo: '{bad[0]}' is not known; write ttft_p95, duration_p99 and the like")
        return self


class UseSettings(Section):
    """What a rule chooses: another model, targets by tag, a strategy, or several of these."""

    model: str | None = None
    tags: Annotated[tuple[str, ...], Field(description="Only targets that have all of these.")] = ()
    strategy: StrategySettings | None = None

    @model_validator(mode="after")
    def _something(self) -> UseSettings:
        if self.model is None and self.strategy is None and not self.tags:
            raise ValueError("name a model, tags or a strategy")
        return self


class RuleSettings(Section):
    """The first rule whose condition holds decides."""

    name: Annotated[str, Field(min_length=1)]
    when: WhenSettings = WhenSettings()
    use: UseSettings


class RequireSettings(Section):
    """Tags that a target must have; all entries whose condition holds apply together."""

    when: WhenSettings = WhenSettings()
    tags: Annotated[list[str], Field(min_length=1)]


class ConstraintSettings(Section):
    """What removes targets before the strategy orders the rest."""

    features: Annotated[bool, Field(description="A target must be able to do what the request needs.")] = True
    context_window: Annotated[bool, Field(description="The estimated input must fit.")] = True
    unknown_features: Annotated[
        Literal["keep", "drop"], Field(description="A target of which nothing is known to `supports`.")
    ] = "keep"
    require: tuple[RequireSettings, ...] = ()


class TaskSettings(Section):
    """The task classifier."""

    classify: Annotated[
        Literal["auto", "always"], Field(description="`auto`: only for rules that ask for the task.")
    ] = "auto"
    trust_header: Annotated[bool, Field(description="`x-junctor-task` wins over the classifier.")] = False
    min_confidence: Annotated[float, Field(ge=0, le=1, description="Below it the task is `chat`.")] = 0.4
    extra: Annotated[tuple[str, ...], Field(description="More names that the header may give.")] = ()


class TopicSettings(Section):
    """A topic: requests that resemble one of these examples. Needs the semantic cache's embedder."""

    examples: Annotated[list[str], Field(min_length=1, max_length=1000)]
    threshold: Annotated[float, Field(ge=0, le=1, description="Least similarity (cosine).")] = 0.75


class StrategiesSettings(Section):
    """The strategy of each model; a rule may name another."""

    default: StrategySettings = StrategySettings()
    models: dict[str, StrategySettings] = Field(default_factory=dict)


class RoutingSettings(PluginSettings):
    """Settings of `routing`."""

    rules: Annotated[tuple[RuleSettings, ...], Field(description="First match wins.")] = ()
    strategies: StrategiesSettings = StrategiesSettings()
    constraints: ConstraintSettings = ConstraintSettings()
    task: TaskSettings = TaskSettings()
    topics: dict[str, TopicSettings] = Field(default_factory=dict)
    embedder: Annotated[
        str, Field(description="For topics, unless the semantic cache is enabled: `minilm`, `wordllama`.")
    ] = "minilm"
    topic_timeout: Annotated[Duration, Field(description="Longest wait for the embedder; then: no topic.")] = 0.1
    share_every: Annotated[Duration, Field(gt=0, description="Figures are shared with other workers so often.")] = 1.0

    @model_validator(mode="after")
    def _names(self) -> RoutingSettings:
        names = [rule.name for rule in self.rules]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"rules: the name '{min(twice)}' is given twice")
        return self
