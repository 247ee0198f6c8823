"""What `junctor check` says: rules that cannot be reached, and rules that name nothing."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from junctor.problems import close_match

from junctor_routing.conditions import covers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from junctor import Model

    from junctor_routing.settings import RoutingSettings, RuleSettings, StrategySettings, WhenSettings
    from junctor_routing.values import Words

__all__ = ["problems"]


def problems(settings: RoutingSettings, models: Mapping[str, Model], tasks: Iterable[str]) -> Iterator[str]:
    """One line a problem, with its path inside the section."""
    known = sorted(tasks)
    for index, rule in enumerate(settings.rules):
        path = f"rules[{index}]"
        yield from _unreachable(path, rule, settings.rules[:index])
        yield from _condition(f"{path}.when", rule.when, settings, models, known)
        yield from _use(f"{path}.use", rule, models)
    for index, entry in enumerate(settings.constraints.require):
        path = f"constraints.require[{index}]"
        yield from _condition(f"{path}.when", entry.when, settings, models, known)
        if entry.when.topic is not None:
            yield f"{path}.when.topic: a topic can only be asked for by a rule"
        yield from _tags(f"{path}.tags", entry.tags, models.values())
    yield from _strategy("strategies.default", settings.strategies.default, models.values())
    for name, strategy in settings.strategies.models.items():
        if name not in models:
            yield f"strategies.models.{name}: no model is named '{name}'{close_match(name, models)}"
        else:
            yield from _strategy(f"strategies.models.{name}", strategy, [models[name]])


def _unreachable(path: str, rule: RuleSettings, earlier: Iterable[RuleSettings]) -> Iterator[str]:
    for other in earlier:
        if covers(other.when, rule.when):
            yield f"{path}: rule '{rule.name}' is never reached: rule '{other.name}' before it takes all its requests"
            return


def _condition(
    path: str, when: WhenSettings, settings: RoutingSettings, models: Mapping[str, Model], tasks: list[str]
) -> Iterator[str]:
    named = (("model", when.model, models, "model"), ("task", when.task, tasks, "task"))
    for field, words, known, what in (*named, ("topic", when.topic, settings.topics, "topic")):
        yield from _unknown(f"{path}.{field}", words, known, what)
    for index, part in enumerate(when.any):
        yield from _condition(f"{path}.any[{index}]", part, settings, models, tasks)
    if when.not_ is not None:
        yield from _condition(f"{path}.not", when.not_, settings, models, tasks)


def _unknown(path: str, words: Words | None, known: Iterable[str], what: str) -> Iterator[str]:
    if words is None:
        return
    names = list(known)
    for word in sorted(words.plain.difference(names)):
        yield f"{path}: no {what} is named '{word}'{close_match(word, names)}"
    for pattern in words.patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            yield f"{path}: no {what} is like '{pattern}'"


def _use(path: str, rule: RuleSettings, models: Mapping[str, Model]) -> Iterator[str]:
    use = rule.use
    if use.model is not None and use.model not in models:
        yield f"{path}.model: no model is named '{use.model}'{close_match(use.model, models)}"
        return
    chosen = [models[use.model]] if use.model is not None else _asked(rule.when, models)
    yield from _tags(f"{path}.tags", use.tags, chosen)
    if use.strategy is not None:
        yield from _strategy(f"{path}.strategy", use.strategy, chosen)


def _asked(when: WhenSettings, models: Mapping[str, Model]) -> list[Model]:
    """The models to which a rule can apply."""
    if when.model is None:
        return list(models.values())
    fits = when.model.matcher()
    return [model for name, model in models.items() if fits(name)]


def _tags(path: str, tags: Iterable[str], models: Iterable[Model]) -> Iterator[str]:
    targets = [target for model in models for target in model.targets]
    tags = list(tags)
    if tags and targets and not any(target.tags.issuperset(tags) for target in targets):
        known = {tag for target in targets for tag in target.tags}
        hint = next((h for tag in tags if tag not in known and (h := close_match(tag, known))), "")
        yield f"{path}: no target has {' and '.join(repr(tag) for tag in tags)}{hint}"


def _strategy(path: str, strategy: StrategySettings, models: Iterable[Model]) -> Iterator[str]:
    targets = [target for model in models for target in model.targets]
    if not targets:
        return
    known = {name for target in targets for name in (target.id, target.name, *target.tags)}
    for index, tier in enumerate(strategy.tiers):
        for word in tier:
            if word not in known:
                yield f"{path}.ordered.tiers[{index}]: no target or tag is named '{word}'{close_match(word, known)}"
    if strategy.kind == "quality" and not any(strategy.tier in target.tags for target in targets):
        yield f"{path}.quality.tier: no target has the tag '{strategy.tier}'"
    dear = strategy.kind in ("cheapest", "quality") or strategy.cost_per_1k_requests is not None
    if dear and all(target.price is None for target in targets):
        yield f"{path}: {strategy.kind} needs prices, and no target has one; give `price` in the file"
