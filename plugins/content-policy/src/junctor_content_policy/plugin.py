"""The hook `pre_route`: scan, label, redact, moderate, re-route, refuse, record."""

from __future__ import annotations

import asyncio
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from junctor import ConfigError, Refused, hookimpl

from junctor_content_policy.body import texts_of
from junctor_content_policy.moderation import Moderation
from junctor_content_policy.patterns import Scanner
from junctor_content_policy.redaction import Placeholders, Restorer
from junctor_content_policy.settings import ActionSettings, ContentPolicySettings

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from junctor import Exchange, Gateway

    from junctor_content_policy.body import Texts
    from junctor_content_policy.patterns import Finding
    from junctor_content_policy.settings import WhoSettings

__all__ = ["ContentPolicy"]

_OF_CLIENT = ("team", "project", "feature", "tier")
_NOTHING = ActionSettings()


class ContentPolicy:
    """Marks a request by what it contains and who sends it, and does what the settings say for that label.

    What is found is never kept or logged: only how often, and of which kind.
    """

    Settings = ContentPolicySettings
    stage = "inspect"

    def __init__(self, settings: ContentPolicySettings, gateway: Gateway) -> None:
        self._settings = settings
        self._gateway = gateway
        self._rank = {label: place for place, label in enumerate(settings.labels)}
        self._actions = settings.actions
        self._redacts = any(action.redact for action in settings.actions.values())
        self._moderation = Moderation(settings.moderation, gateway) if settings.moderation else None
        self._scanner = Scanner(
            {str(kind): label for kind, label in settings.patterns.items()},
            countries=settings.countries,
            phone_regions=settings.phone_regions,
            custom=settings.custom,
            words={
                name: (w.label, _listed(name, w.words, w.file), w.ignore_case) for name, w in settings.words.items()
            },
        )

    @hookimpl
    def check(self) -> Iterable[str]:
        settings = self._settings
        if settings.moderation is not None and (problem := self._gateway.unknown_model(settings.moderation.model)):
            yield f"moderation.model: {problem}"
        tags = {tag for model in self._gateway.models.values() for target in model.targets for tag in target.tags}
        for label, action in settings.actions.items():
            for tag in sorted(set(action.route) - tags):
                yield f"actions.{label}.route: no target has the tag '{tag}'"
            if action.route and "routing" not in self._gateway.plugins.by_name and not self._routes():
                yield f"actions.{label}.route: needs the plugin `routing`; enable it under `plugins:`"

    def _routes(self) -> bool:
        """Whether a plugin chooses targets: an action that nobody carries out must not be taken for one."""
        return any(
            hasattr(plugin, "route") for name, plugin in self._gateway.plugins.by_name.items() if name != "file_order"
        )

    @hookimpl
    async def pre_route(self, exchange: Exchange) -> None:
        if exchange.purpose or not exchange.request.for_model:
            return
        labels = [rule.label for rule in self._settings.rules if _applies(rule.when, exchange)]
        texts = texts_of(exchange.request.body)
        findings = await self._scan(texts) if texts is not None else []
        policy: dict[str, Any] = {}
        if findings:
            policy["found"] = _counted(findings)
        exchange.facts["policy"] = policy
        labels += [finding.label for finding in findings]
        self._mark(exchange, labels)
        self._refuse(labels, findings, texts, exchange)
        if texts is not None and findings and self._redacts:
            self._redact(exchange, texts, findings, set(labels))
        # Before moderation: its model, too, may only be where this text may go.
        self._route(exchange, labels)
        if self._moderation is not None and texts is not None:
            labels += await self._moderate(exchange, policy)
            self._mark(exchange, labels)
            self._refuse(labels, findings, texts, exchange)
            self._route(exchange, labels)

    async def _scan(self, texts: Texts) -> list[Finding]:
        if len(texts.joined) <= self._settings.large:
            return self._scanner.scan(texts.joined)
        return await asyncio.to_thread(self._scanner.scan, texts.joined)

    def _mark(self, exchange: Exchange, labels: Sequence[str]) -> None:
        """The request's label is the most sensitive of all that were given."""
        exchange.facts["sensitivity"] = max(labels, key=self._rank.__getitem__, default=self._settings.labels[0])

    def _refuse(
        self, labels: Sequence[str], findings: Sequence[Finding], texts: Texts | None, exchange: Exchange
    ) -> None:
        for label in dict.fromkeys(labels):
            refuse = self._actions.get(label, _NOTHING).refuse
            if not refuse:
                continue
            exchange.facts["policy"]["refused"] = label
            own = [finding for finding in findings if finding.label == label]
            kinds = ", ".join(dict.fromkeys(finding.kind for finding in own))
            default = f"the request is marked '{label}'" + (f" ({kinds})" if kinds else "") + " and may not be sent"
            param = texts.path(own[0]) if own and texts is not None else None
            raise Refused(refuse if isinstance(refuse, str) else default, code="content_policy", param=param)

    def _redact(self, exchange: Exchange, texts: Texts, findings: Sequence[Finding], labels: set[str]) -> None:
        every = any(self._actions.get(label, _NOTHING).redact == "all" for label in labels)
        chosen = [f for f in findings if every or self._actions.get(f.label, _NOTHING).redact]
        if not chosen:
            return
        placeholders = Placeholders(texts.joined)
        texts.replace([(f, placeholders.for_value(f.kind, texts.joined[f.start : f.end])) for f in chosen])
        exchange.transforms.append(Restorer(placeholders))
        exchange.facts["policy"]["redacted"] = len(placeholders)

    async def _moderate(self, exchange: Exchange, policy: dict[str, Any]) -> list[str]:
        assert self._moderation is not None and self._settings.moderation is not None  # noqa: PT018
        if not _applies(self._settings.moderation.when, exchange):
            return []
        # Read again: the moderation model gets what the provider would get.
        texts = texts_of(exchange.request.body)
        flagged, policy["moderation"] = await self._moderation.flags(exchange, texts.joined if texts else "")
        return [self._settings.moderation.label] if flagged else []

    def _route(self, exchange: Exchange, labels: Sequence[str]) -> None:
        tags = [tag for label in dict.fromkeys(labels) for tag in self._actions.get(label, _NOTHING).route]
        if tags:
            before: list[str] = exchange.facts.get("require_tags") or []
            exchange.facts["require_tags"] = list(dict.fromkeys([*before, *tags]))


def _applies(who: WhoSettings, exchange: Exchange) -> bool:
    """Whether everything that is written holds."""
    client = exchange.client
    for field in _OF_CLIENT:
        wanted = getattr(who, field)
        if wanted and not _fits(getattr(client, field), wanted):
            return False
    pairs = ((client.name, who.client), (client.key_id, who.key), (exchange.request.model, who.model))
    if not all(not wanted or _fits(value, wanted) for value, wanted in pairs):
        return False
    headers = exchange.request.headers
    return all(name.lower() in headers and _fits(headers[name.lower()], wanted) for name, wanted in who.header.items())


def _fits(value: str, wanted: Sequence[str]) -> bool:
    return value in wanted or any("*" in pattern and fnmatchcase(value, pattern) for pattern in wanted)


def _counted(findings: Sequence[Finding]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for finding in findings:
        counts[finding.kind] = counts.get(finding.kind, 0) + 1
    return counts


def _listed(name: str, words: Sequence[str], file: str | None) -> list[str]:
    found = list(words)
    if file is not None:
        try:
            lines = Path(file).read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise ConfigError(f"words.{name}.file: {file} cannot be read: {error}") from None
        found += [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    if not found:
        raise ConfigError(f"words.{name}: holds no word")
    return found
