"""Find, configure and order the plugins, and await their hooks.

pluggy brings the specification, registration and validation. It has no notion of awaiting, so the three small functions
`first`, `each` and `each_outward` run the implementations, in an order that is resolved once, at start-up.
"""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from time import perf_counter
from typing import TYPE_CHECKING, Any

import pluggy
from pydantic import ValidationError

from junctor import hookspecs
from junctor.errors import ConfigError, ErrorKind, GatewayError, PluginFailed, ProviderError
from junctor.limit import Limit
from junctor.problems import close_match, problems_of
from junctor.settings import PluginSettings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
    from importlib.metadata import EntryPoint

    from junctor.exchange import Exchange

__all__ = [
    "HOOKS",
    "STAGES",
    "Hook",
    "Plugins",
    "Section",
    "Step",
    "each",
    "each_outward",
    "first",
    "installed",
    "load",
    "out_of_order",
    "read_sections",
]

STAGES = {
    "observe": "sees every request and its outcome, refusals too",
    "identify": "says who calls, before anything is decided by it",
    "inspect": "looks at the content, before it is counted and sent",
    "limit": "counts what is let in, before a target is chosen",
    "choose": "chooses the target",
    "remember": "answers from a cache, before a provider is called",
    "protect": "guards the calls: circuit breaker, retry, fallback",
    "call": "calls the provider",
}
"""The sound order of plugins. A plugin's class names its place in `stage`; without one it may stand anywhere."""

HOOKS = ("pre_route", "route", "cache_lookup", "call", "on_error", "post_call")
_ARGUMENTS = {name: tuple(inspect.signature(getattr(hookspecs, name)).parameters) for name in HOOKS}
_log = logging.getLogger("junctor.plugins")


@dataclass(slots=True)
class Step:
    """One plugin's implementation of one hook: timed, limited, and with its failures handled."""

    plugin: str
    hook: str
    function: Callable[..., Awaitable[Any]]
    timeout: float | None
    closed: bool
    failures: Counter[tuple[str, str]]
    key: tuple[str, str] = field(init=False)

    def __post_init__(self) -> None:
        self.key = (self.plugin, self.hook)

    async def __call__(self, exchange: Exchange, *args: Any) -> Any:
        started = perf_counter()
        try:
            if self.timeout is None:
                return await self.function(exchange, *args)
            with Limit(self.timeout):
                return await self.function(exchange, *args)
        except GatewayError:
            raise
        except Exception as error:  # someone else's code
            return self._failed(exchange, error)
        finally:
            timings = exchange.timings
            timings[self.key] = timings.get(self.key, 0.0) + perf_counter() - started

    def _failed(self, exchange: Exchange, error: Exception) -> None:
        self.failures[self.key] += 1
        late = isinstance(error, TimeoutError) and self.timeout is not None
        what = f"took longer than {self.timeout:g} s" if late else f"failed: {type(error).__name__}"
        _log.error(
            "plugin '%s': %s %s (request %s)",
            self.plugin,
            self.hook,
            what,
            exchange.id,
            exc_info=None if late else error,
        )
        if self.hook == "call":
            raise ProviderError(f"plugin '{self.plugin}' {what}", kind=ErrorKind.INTERNAL) from error
        if self.closed and self.hook in ("pre_route", "route"):
            raise PluginFailed(f"plugin '{self.plugin}' cannot answer now", retry_after=1.0) from error


Hook = tuple[Step, ...]


async def first(hook: Hook, exchange: Exchange, *args: Any) -> Any:
    """Ask one after the other; the first answer that is not None."""
    for step in hook:
        answer = await step(exchange, *args)
        if answer is not None:
            return answer
    return None


async def each(hook: Hook, exchange: Exchange, *args: Any) -> None:
    """Run all, in order; an error ends the run."""
    for step in hook:
        await step(exchange, *args)


async def each_outward(hook: Hook, exchange: Exchange, *args: Any) -> None:
    """Run all, from the last to the first, whatever happens to the others."""
    for step in reversed(hook):
        try:
            await step(exchange, *args)
        except GatewayError as error:
            step._failed(exchange, error)


@dataclass(frozen=True, slots=True)
class Section:
    """One entry of the `plugins:` list, read but not yet built."""

    index: int
    name: str
    factory: Callable[..., object]
    settings: PluginSettings

    @property
    def path(self) -> str:
        return f"plugins[{self.index}] ({self.name})"


class Plugins:
    """The enabled plugins, registered in the order of the list.

    `failures` counts what went wrong by (plugin, hook). `hook` has, for each of the six names, the steps in order.
    """

    def __init__(self) -> None:
        self.manager = pluggy.PluginManager("junctor")
        self.manager.add_hookspecs(hookspecs)
        self.failures: Counter[tuple[str, str]] = Counter()
        self.hook: dict[str, Hook] = {}
        self.by_name: dict[str, object] = {}

    def register(self, plugins: Sequence[tuple[str, object, PluginSettings]]) -> None:
        """Register in order and resolve the hooks; raises `ConfigError` for what does not fit the specification."""
        settings = {name: section for name, _, section in plugins}
        problems: list[str] = []
        # pluggy asks what was registered last first.
        for name, plugin, _ in reversed(plugins):
            try:
                self.manager.register(plugin, name)
            except pluggy.PluginValidationError as error:
                problems.append(f"plugin '{name}': {str(error).splitlines()[-1]}")
        self.by_name = {name: plugin for name, plugin, _ in plugins}
        problems += self._unknown_hooks(plugins)
        for hook in HOOKS:
            implementations = reversed(getattr(self.manager.hook, hook).get_hookimpls())
            self.hook[hook] = tuple(self._step(hook, i, settings[i.plugin_name], problems) for i in implementations)
        if problems:
            raise ConfigError(problems)

    def _unknown_hooks(self, plugins: Iterable[tuple[str, object, PluginSettings]]) -> Iterable[str]:
        known = {name for name in dir(self.manager.hook) if not name.startswith("_")} & set(hookspecs.__all__)
        for name, plugin, _ in plugins:
            for attribute in dir(type(plugin)):
                marked = getattr(getattr(type(plugin), attribute, None), "junctor_impl", None)
                if marked and attribute not in known:
                    hint = close_match(attribute, known)
                    yield f"plugin '{name}': there is no hook '{attribute}'{hint}"

    def _step(self, hook: str, implementation: pluggy.HookImpl, settings: PluginSettings, problems: list[str]) -> Step:
        name, function = implementation.plugin_name, implementation.function
        if not inspect.iscoroutinefunction(function):
            problems.append(f"plugin '{name}': hook '{hook}' must be `async def`")
        bound = _fitted(function, implementation.argnames, _ARGUMENTS[hook])
        return Step(name, hook, bound, settings.timeout, settings.on_failure == "closed", self.failures)


def _fitted(function: Any, takes: Sequence[str], given: Sequence[str]) -> Callable[..., Awaitable[Any]]:
    """The function as one that takes all of the hook's arguments in their order."""
    if tuple(takes) == tuple(given):
        return function  # type: ignore[no-any-return]
    places = [given.index(name) for name in takes if name in given]
    if places == [0]:
        return lambda exchange, *_: function(exchange)
    return lambda *args: function(*[args[place] for place in places])


def installed() -> dict[str, EntryPoint]:
    """The plugins installed here, by the name that the YAML uses. Nothing is imported."""
    return {point.name: point for point in sorted(entry_points(group="junctor"))}


def read_sections(entries: Sequence[str | Mapping[str, Any]], problems: list[str]) -> list[Section]:
    """Find and validate every entry of `plugins:`; what is wrong is added to `problems`, all of it."""
    available = installed()
    sections: list[Section] = []
    for index, entry in enumerate(entries):
        if not isinstance(entry, str) and len(entry) != 1:
            problems.append(f"plugins[{index}]: write a name, or one name with its settings")
            continue
        name, raw = (entry, None) if isinstance(entry, str) else next(iter(entry.items()))
        path = f"plugins[{index}] ({name})"
        point = available.get(name)
        if point is None:
            hint = close_match(name, available) or f" (installed: {', '.join(available) or 'none'})"
            remedy = f"`pip install junctor-{name.replace('_', '-')}`"
            problems.append(f"{path}: plugin '{name}' is not installed{hint}; if it should be, {remedy}")
            continue
        if any(section.name == name for section in sections):
            problems.append(f"{path}: is listed twice")
            continue
        section = _read_section(index, name, point, raw or {}, problems)
        if section is not None:
            sections.append(section)
    return sections


def _read_section(index: int, name: str, point: EntryPoint, raw: Any, problems: list[str]) -> Section | None:
    path = f"plugins[{index}] ({name})"
    try:
        factory = point.load()
    except Exception as error:  # someone else's code
        problems.append(f"{path}: cannot be imported: {type(error).__name__}: {error}")
        return None
    model = getattr(factory, "Settings", PluginSettings)
    try:
        return Section(index, name, factory, model.model_validate(raw))
    except ValidationError as error:
        problems.extend(f"{path}: {problem}" for problem in problems_of(error, model))
        return None


def out_of_order(sections: Sequence[Section]) -> list[str]:
    """What is strange about the order of the list, one line each; it is allowed, but seldom meant."""
    order = list(STAGES)
    found: list[str] = []
    before: tuple[int, Section] | None = None
    for section in sections:
        stage = getattr(section.factory, "stage", None)
        if stage is None:
            continue
        place = order.index(stage)
        if before is not None and place < before[0]:
            later = getattr(before[1].factory, "stage", "")
            found.append(
                f"{section.path}: stands after '{before[1].name}', but '{section.name}' {STAGES[stage]}, "
                f"while '{before[1].name}' {STAGES[later]}; put it before"
            )
        else:
            before = (place, section)
    return found


def load(sections: Sequence[Section], gateway: object, problems: list[str]) -> list[tuple[str, object, PluginSettings]]:
    """Build the plugins. A class takes `(settings, gateway)`, `(settings)` or nothing."""
    built: list[tuple[str, object, PluginSettings]] = []
    for section in sections:
        offered = (section.settings, gateway)
        taken = len(inspect.signature(section.factory).parameters)
        try:
            built.append((section.name, section.factory(*offered[:taken]), section.settings))
        except ConfigError as error:
            problems.extend(f"{section.path}: {problem}" for problem in error.problems)
        except Exception as error:  # someone else's code
            problems.append(f"{section.path}: cannot be built: {type(error).__name__}: {error}")
    return built
