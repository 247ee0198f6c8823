"""Conditions compiled to closures at start-up, and the question whether one makes another unreachable."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from operator import attrgetter
from typing import TYPE_CHECKING, Any
from zlib import crc32

from junctor_routing.view import IMAGES, JSON_SCHEMA, STREAMING, TOOLS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from junctor_routing.settings import WhenSettings
    from junctor_routing.task import Task
    from junctor_routing.values import Hours, Words
    from junctor_routing.view import View

    Test = Callable[[View], bool]

__all__ = ["Compiler", "covers"]

_OF_CLIENT = ("team", "project", "feature", "tier")
_FEATURES = {"tools": TOOLS, "images": IMAGES, "json_schema": JSON_SCHEMA, "stream": STREAMING}


class Compiler:
    """Makes closures of conditions. The cheap tests come first, the task classifier last."""

    def __init__(self, classify: Callable[[View], Task]) -> None:
        self._classify = classify

    def compile(self, when: WhenSettings, *, name: str) -> Test:
        """One test for the whole condition, without `topic` (which has to be awaited). `name` salts `percent`."""
        tests = tuple(self._tests(when, name))
        if not tests:
            return lambda _: True
        if len(tests) == 1:
            return tests[0]
        if len(tests) == 2:
            one, two = tests
            return lambda view: one(view) and two(view)

        def every(view: View) -> bool:
            for test in tests:  # noqa: SIM110 (a generator costs more than the tests)
                if not test(view):
                    return False
            return True

        return every

    def _tests(self, when: WhenSettings, name: str) -> Iterator[Test]:
        yield from _identity(when)
        yield from _texts(when)
        yield from _shape(when)
        if when.any:
            branches = tuple(self.compile(branch, name=f"{name}/{n}") for n, branch in enumerate(when.any))
            yield lambda view: any(branch(view) for branch in branches)
        if when.not_ is not None:
            inner = self.compile(when.not_, name=f"{name}/not")
            yield lambda view: not inner(view)
        if when.percent is not None:
            yield _percent(when.percent, when.sticky_by, name)
        if when.input_tokens is not None:
            tokens = when.input_tokens.matcher()
            yield lambda view: tokens(view.tokens)
        if when.task is not None:
            task, classify = when.task.matcher(), self._classify
            yield lambda view: task(view.task(classify).name)


def _identity(when: WhenSettings) -> Iterator[Test]:
    if when.model is not None:
        model = when.model.matcher()
        yield lambda view: model(view.request.model)
    if when.operation is not None:
        operation = when.operation.matcher()
        yield lambda view: operation(view.request.operation)
    for field in _OF_CLIENT:
        words: Words | None = getattr(when, field)
        if words is not None:
            yield _of_client(field, words)
    if when.client is not None:
        client = when.client.matcher()
        yield lambda view: client(view.client.name)
    if when.key is not None:
        key = when.key.matcher()
        yield lambda view: key(view.client.key_id)
    for name, wanted in when.client_tags.items():
        yield _client_tag(name, wanted)


def _of_client(field: str, words: Words) -> Test:
    fits = words.matcher()
    read = attrgetter(field)
    return lambda view: fits(read(view.client))


def _client_tag(name: str, words: Words) -> Test:
    fits = words.matcher()
    return lambda view: fits(view.client.tags.get(name, ""))


def _texts(when: WhenSettings) -> Iterator[Test]:
    for name, wanted in when.header.items():
        yield _entry(lambda view: view.headers, name, wanted)
    for name, wanted in when.metadata.items():
        yield _entry(_metadata, name, wanted)
    if when.sensitivity is not None:
        sensitivity = when.sensitivity.matcher()
        yield lambda view: sensitivity(view.facts.get("sensitivity", "none"))
    if when.budget_used is not None:
        used = when.budget_used.matcher()
        yield lambda view: used(view.facts.get("budget_used", 0.0))


def _entry(entries: Callable[[View], Mapping[str, Any]], name: str, wanted: bool | Words) -> Test:
    """A header or metadata value: there at all (or not), or there with one of the words."""
    if isinstance(wanted, bool):
        return lambda view: (name in entries(view)) is wanted
    fits = wanted.matcher()
    return lambda view: name in entries(view) and fits(str(entries(view)[name]))


def _metadata(view: View) -> dict[str, Any]:
    found = view.body.get("metadata")
    return found if isinstance(found, dict) else {}


def _shape(when: WhenSettings) -> Iterator[Test]:
    for field, bit in _FEATURES.items():
        wanted: bool | None = getattr(when, field)
        if wanted is not None:
            yield _feature(bit, wanted=wanted)
    if when.reasoning is not None:
        reasoning = when.reasoning
        yield lambda view: view.reasoning is reasoning
    if when.time is not None:
        yield _during(when.time)


def _feature(bit: int, *, wanted: bool) -> Test:
    return lambda view: bool(view.features & bit) is wanted


def _during(hours: Hours) -> Test:
    """The clock is looked at once a minute: no zone arithmetic for every request."""
    last = [-1, False]

    def test(_: View) -> bool:
        minute = int(time.time()) // 60
        if last[0] != minute:
            last[:] = minute, hours.contains(datetime.fromtimestamp(minute * 60, UTC))
        return bool(last[1])

    return test


def _percent(percent: float, by: str | None, name: str) -> Test:
    # Salted with the rule's name: two canaries of 10 % must not hit the same clients.
    salt = crc32(name.encode())
    return lambda view: view.percent(salt, by) < percent


def covers(earlier: WhenSettings, later: WhenSettings) -> bool:
    """Whether every request that `later` takes is taken by `earlier`. Cautious: False if it is not certain."""
    if later.any:
        rest = later.model_copy(update={"any": ()})
        if all(covers(earlier, _joined(rest, branch)) for branch in later.any):
            return True
    return all(_covered(earlier, later, field) for field in type(earlier).model_fields)


def _joined(one: WhenSettings, other: WhenSettings) -> WhenSettings:
    """Both conditions in one, as far as they name different things; what only `one` says is kept."""
    fields = {name: value for name in type(other).model_fields if (value := getattr(other, name))}
    return one.model_copy(update={**fields, **{n: v for n in fields if (v := getattr(one, n))}})


def _covered(earlier: WhenSettings, later: WhenSettings, field: str) -> bool:
    one, two = getattr(earlier, field), getattr(later, field)
    if field == "percent":
        return one is None or one >= 100
    if field == "sticky_by" or one is None or one in ({}, ()):
        return True
    if field == "any":
        return any(covers(branch, later) for branch in one) or one == two
    if field == "not_":
        return bool(one == two)
    if isinstance(one, dict):
        return all(name in two and _fits(value, two[name]) for name, value in one.items())
    return two is not None and _fits(one, two)


def _fits(one: Any, two: Any) -> bool:
    if isinstance(one, bool):
        # A header that is wanted with a value is there.
        return one is two or (one and not isinstance(two, bool))
    return type(one) is type(two) and bool(one.covers(two))
