"""The section `content_policy` of the YAML, typed."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from junctor import Duration, PluginSettings, Section
from pydantic import BeforeValidator, Field, field_validator, model_validator

from junctor_content_policy.identifiers import COUNTRIES

__all__ = [
    "ActionSettings",
    "ContentPolicySettings",
    "CustomSettings",
    "ModerationSettings",
    "PolicyRule",
    "WhoSettings",
    "WordsSettings",
]

Kind = Literal["secret", "email", "phone", "card", "iban", "national_id"]
_DEFAULT: dict[Kind, str] = {
    "secret": "regulated",
    "email": "personal",
    "phone": "personal",
    "card": "regulated",
    "iban": "regulated",
    "national_id": "regulated",
}


def _texts(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


Texts = Annotated[tuple[str, ...], BeforeValidator(_texts)]


class WhoSettings(Section):
    """Who asks. All that is written must hold; in a list any one; `*` stands for any text."""

    team: Texts = ()
    project: Texts = ()
    feature: Texts = ()
    tier: Texts = ()
    client: Texts = ()
    key: Texts = ()
    model: Texts = ()
    header: dict[str, Texts] = Field(default_factory=dict, description="By name; `*`: it is there at all.")


class PolicyRule(Section):
    """Gives a label by who asks."""

    when: WhoSettings
    label: str


class CustomSettings(Section):
    """A pattern of your own: a regular expression of Python's `re`."""

    regex: str
    label: str
    ignore_case: bool = False

    @field_validator("regex")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            pattern = re.compile(value)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        if pattern.match(""):
            raise ValueError("matches the empty text")
        return value


class WordsSettings(Section):
    """A list of words or phrases, found as whole words."""

    label: str
    words: Annotated[tuple[str, ...], Field(description="Words or phrases.")] = ()
    file: Annotated[str | None, Field(description="A file with one a line; `#` begins a comment.")] = None
    ignore_case: bool = True

    @model_validator(mode="after")
    def _something(self) -> WordsSettings:
        if not self.words and self.file is None:
            raise ValueError("give words or a file")
        return self


class ModerationSettings(Section):
    """A model of this gateway that looks at the text, after redaction."""

    model: str
    label: str
    when: WhoSettings = WhoSettings()
    instruction: Annotated[str | None, Field(description="The system prompt; the default asks for safe or unsafe.")] = (
        None
    )
    flagged: Annotated[str, Field(description="Regular expression: an answer that means yes.")] = (
        r"(?i)\bunsafe\b|\"flagged\"\s*:\s*true"
    )
    timeout: Annotated[Duration, Field(gt=0, description="Longest wait for the answer.")] = 1.0
    on_failure: Annotated[
        Literal["open", "closed"], Field(description="No answer in time: `closed` refuses, `open` goes on unmoderated.")
    ] = "closed"
    max_characters: Annotated[int, Field(gt=0, description="Of the text's end, so much is shown.")] = 8000

    @field_validator("flagged")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from None
        return value


class ActionSettings(Section):
    """What follows from a label. Written as `redact`, `refuse` or `record`, or as a mapping of several."""

    route: Annotated[tuple[str, ...], Field(description="Only targets with these tags.")] = ()
    redact: Annotated[
        bool | Literal["all"], Field(description="true: findings of this label; `all`: of every label.")
    ] = False
    refuse: Annotated[bool | str, Field(description="true, or the message for the client.")] = False

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {} if value == "record" else {value: True}
        return value


class ContentPolicySettings(PluginSettings):
    """Settings of `content_policy`."""

    labels: Annotated[tuple[str, ...], Field(min_length=1, description="From the least sensitive to the most.")] = (
        "none",
        "internal",
        "personal",
        "regulated",
    )
    rules: Annotated[tuple[PolicyRule, ...], Field(description="Labels by who asks.")] = ()
    patterns: dict[Kind, str] = Field(default=_DEFAULT, description="What is looked for, and the label it gives.")
    countries: Annotated[tuple[str, ...], Field(description="national_id: which countries' numbers.")] = (
        *("us", "gb", "de", "fr", "es", "it", "ch", "br", "fi", "se", "in"),
    )
    phone_regions: Annotated[
        tuple[str, ...], Field(description="phone: countries whose numbers count without +: `[DE, US]`.")
    ] = ()
    custom: dict[str, CustomSettings] = Field(default_factory=dict, description="Patterns of your own, by name.")
    words: dict[str, WordsSettings] = Field(default_factory=dict, description="Word lists, by name.")
    moderation: ModerationSettings | None = None
    actions: dict[str, ActionSettings] = Field(default_factory=dict, description="By label.")
    large: Annotated[int, Field(gt=0, description="Texts over so many characters are scanned in a thread.")] = 16384

    @model_validator(mode="after")
    def _labels_exist(self) -> ContentPolicySettings:
        used = {f"rules[{index}].label": rule.label for index, rule in enumerate(self.rules)}
        used |= {f"patterns.{kind}": label for kind, label in self.patterns.items()}
        used |= {f"custom.{name}.label": custom.label for name, custom in self.custom.items()}
        used |= {f"words.{name}.label": words.label for name, words in self.words.items()}
        used |= {f"actions.{label}": label for label in self.actions}
        if self.moderation is not None:
            used["moderation.label"] = self.moderation.label
        if wrong := [f"{path}: '{label}'" for path, label in used.items() if label not in self.labels]:
            raise ValueError(f"{wrong[0]} is not one of the labels {', '.join(self.labels)}")
        if unknown := [country for country in self.countries if country not in COUNTRIES]:
            raise ValueError(f"countries: '{unknown[0]}' is not known (known: {', '.join(sorted(COUNTRIES))})")
        if clash := set(self.custom) & set(self.words) | (set(self.custom) | set(self.words)) & set(_DEFAULT):
            raise ValueError(f"the name '{min(clash)}' is given twice among patterns, custom and words")
        return self
