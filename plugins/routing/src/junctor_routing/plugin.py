"""The hook `route`, and what is learned from the outcome in `post_call`."""

from __future__ import annotations

import time
from math import inf
from typing import TYPE_CHECKING, Any, Self

from junctor import BadRequest, ProviderError, hookimpl

from junctor_routing.checks import problems
from junctor_routing.conditions import Compiler
from junctor_routing.constraints import Candidate, Pool, abilities, refusal
from junctor_routing.examples import Topics
from junctor_routing.live import Live
from junctor_routing.settings import RoutingSettings
from junctor_routing.sharing import Sharing
from junctor_routing.strategies import build, hash_text
from junctor_routing.task import TASKS, Task, classify
from junctor_routing.view import View

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from junctor import Attempt, Exchange, Gateway, Model, Response, Target
    from junctor.assets import Asset

    from junctor_routing.settings import RuleSettings
    from junctor_routing.strategies import Ranked, Strategy

__all__ = ["Routing"]

_STATE = "routing"
_MAX_POOLS = 4096


class _Rule:
    """A rule, compiled."""

    __slots__ = ("index", "model", "name", "strategy", "tags", "test", "topic")

    def __init__(self, index: int, settings: RuleSettings, compiler: Compiler, models: dict[str, Model]) -> None:
        self.index = index
        self.name = settings.name
        self.test: Callable[[View], bool] = compiler.compile(settings.when, name=settings.name)
        self.topic = settings.when.topic.matcher() if settings.when.topic is not None else None
        self.model = models.get(settings.use.model or "")
        self.tags = tuple((tag, f"rule '{settings.name}'") for tag in settings.use.tags)
        self.strategy = build(settings.use.strategy) if settings.use.strategy is not None else None


class _Ticket:
    """Where an exchange is counted as in flight: from `route` on, moved in `call`, released in `post_call`."""

    __slots__ = ("expected", "first", "live", "target")

    def __init__(self, candidate: Candidate, expected: float) -> None:
        self.target = candidate.target
        self.live = self.first = candidate.live
        self.expected = expected
        self.live.in_flight += 1

    def move(self, target: Target, live: Live) -> None:
        self.live.in_flight -= 1
        self.target, self.live = target, live
        live.in_flight += 1


class Routing:
    """Chooses the target for each request: rules, constraints, strategies and live figures."""

    Settings = RoutingSettings
    stage = "choose"

    def __init__(self, settings: RoutingSettings, gateway: Gateway) -> None:
        self._settings = settings
        self._gateway = gateway
        self._lives: dict[str, Live] = {}
        self._full_until = 0.0
        self._expected: dict[str, float] = {}
        self._known_tasks = frozenset(TASKS) | set(settings.task.extra)
        self._models = dict(gateway.models)
        self._candidates = {name: self._prepare(model) for name, model in self._models.items()}
        compiler = Compiler(self._classify)
        self._rules = [_Rule(index, rule, compiler, self._models) for index, rule in enumerate(settings.rules)]
        self._require = [
            (compiler.compile(entry.when, name=f"require[{index}]"), tuple((tag, "required") for tag in entry.tags))
            for index, entry in enumerate(settings.constraints.require)
        ]
        chosen = settings.strategies
        self._strategies = {name: build(chosen.models.get(name, chosen.default)) for name in self._models}
        self._cheapest = build(type(chosen.default)(kind="cheapest"))
        self._pools: dict[Any, Pool] = {}
        self._topics = self._make_topics()
        self._sharing = Sharing(gateway.state, self._lives, settings.share_every, self._is_full)

    def _make_topics(self) -> Topics | None:
        settings = self._settings
        if not settings.topics:
            return None
        return Topics(settings.topics, self._gateway, model=settings.embedder, timeout=settings.topic_timeout)

    def _prepare(self, model: Model) -> tuple[Candidate, ...]:
        """The model's targets with what the hot path needs of them."""
        section = next((m for m in self._gateway.settings.models if m.name == model.name), None)
        written = {t.target for t in section.targets if t.supports is not None} if section else set()
        keep = self._settings.constraints.unknown_features == "keep"
        found = []
        for target in model.targets:
            able = abilities(target, configured=target.name in written, keep_unknown=keep)
            seed = hash_text(live_key(target).encode())
            found.append(Candidate(target, self._live(target), able, seed))
        return tuple(found)

    def _live(self, target: Target) -> Live:
        key = live_key(target)
        live = self._lives.get(key)
        if live is None:
            live = self._lives[key] = Live(target.requests_per_minute, target.tokens_per_minute)
        return live

    async def __aenter__(self) -> Self:
        if self._gateway.state.shared:
            self._sharing.open()
        if self._topics is not None:
            self._topics.open()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._sharing.aclose()
        if self._topics is not None:
            await self._topics.aclose()

    @hookimpl
    def check(self) -> Iterable[str]:
        return problems(self._settings, self._models, self._known_tasks)

    @hookimpl
    def assets(self) -> Iterable[Asset]:
        return self._topics.assets() if self._topics is not None else []

    @hookimpl
    async def route(self, exchange: Exchange) -> Sequence[Target] | None:
        view = View(exchange, time.monotonic())
        # The gateway's own questions go where they are sent; constraints and strategies hold for them too.
        rule = await self._match(view) if self._rules and not exchange.purpose else None
        if self._settings.task.classify == "always" and not exchange.purpose:
            view.task(self._classify)
        if rule is not None and rule.model is not None:
            exchange.model = rule.model
        model = exchange.model
        candidates = self._candidates.get(model.name) if model is not None else None
        if model is None or candidates is None:
            return None
        view.expected_output = self._expected.get(model.name, view.expected_output)
        pool = self._pool(model.name, candidates, rule, view)
        fit, dropped = (pool.candidates, pool.dropped) if self._fits(view) else pool.fitting(view)
        if not fit:
            self._record(view, rule, "none", [], dropped)
            kinds = pool.kinds | {"window"} if pool.candidates else pool.kinds
            raise refusal(exchange.request.model, kinds, dropped)
        strategy = self._strategy(model.name, rule, view)
        ranked = strategy.rank(fit, view)
        if "dropped" in view.notes:
            dropped = [*dropped, *view.notes.pop("dropped")]
        if not ranked:
            self._record(view, rule, strategy.name, [], dropped)
            raise refusal(exchange.request.model, {*pool.kinds, "cost"}, dropped)
        if view.now < self._full_until and len(ranked) > 1:
            ranked = _full_last(ranked, view.now)
        self._record(view, rule, strategy.name, ranked, dropped)
        self._count(exchange, ranked[0][1], view)
        return [candidate.target for _, candidate in ranked]

    def _fits(self, view: View) -> bool:
        """Whether nothing is to be asked about context windows. Embeddings are many inputs, each with its own."""
        return not self._settings.constraints.context_window or view.request.operation == "embeddings"

    async def _match(self, view: View) -> _Rule | None:
        asked = False
        for rule in self._rules:
            if not rule.test(view):
                continue
            if rule.topic is None:
                return rule
            if not asked and self._topics is not None:
                view.topic = await self._topics.of(view)
                asked = True
            if view.topic is not None and rule.topic(view.topic):
                return rule
        return None

    def _pool(self, name: str, candidates: Sequence[Candidate], rule: _Rule | None, view: View) -> Pool:
        """What static facts leave of the targets: worked out once for equal requests."""
        required = _required(view.exchange)
        tags: list[tuple[str, str]] = [(tag, "content policy") for tag in required]
        for test, wanted in self._require:
            if test(view):
                tags += wanted
        if len(tags) > len(view.facts.get("require_tags") or ()):
            # Whoever falls back to another model must keep to these too.
            view.facts["require_tags"] = list(dict.fromkeys(tag for tag, _ in tags))
        features = view.features if self._settings.constraints.features else 0
        key = (name, features, -1 if rule is None else rule.index, tuple(tags))
        pool = self._pools.get(key)
        if pool is None:
            if len(self._pools) >= _MAX_POOLS:
                self._pools.clear()
            pool = self._pools[key] = Pool(candidates, features, [*tags, *(rule.tags if rule is not None else ())])
        return pool

    def _strategy(self, name: str, rule: _Rule | None, view: View) -> Strategy:
        if view.facts.get("prefer_cheaper"):
            view.notes["because"] = "prefer_cheaper"
            return self._cheapest
        if rule is not None and rule.strategy is not None:
            return rule.strategy
        return self._strategies[name]

    def _count(self, exchange: Exchange, candidate: Candidate, view: View) -> None:
        expected = 0.0
        if candidate.live.limits.known:
            expected = view.tokens + view.output_tokens
            candidate.live.window.add(time.time(), 1, expected)
        exchange.state[_STATE] = _Ticket(candidate, expected)

    def _record(
        self, view: View, rule: _Rule | None, strategy: str, ranked: Ranked, dropped: list[dict[str, Any]]
    ) -> None:
        """The decision, for the log: `facts["route"]`."""
        exchange = view.exchange
        found: dict[str, Any] = {
            "rule": None if rule is None else rule.name,
            "strategy": strategy,
            "candidates": [{"target": c.id, "score": s if s < inf else None} for s, c in ranked] + dropped,
        }
        if exchange.model is not None and exchange.model.name != exchange.request.model:
            found["model"] = exchange.model.name
        exchange.facts["route"] = {**found, **view.notes} if view.notes else found

    def _classify(self, view: View) -> Task:
        settings = self._settings.task
        stated = view.headers.get("x-junctor-task")
        if stated and settings.trust_header:
            if stated not in self._known_tasks:
                names = ", ".join(sorted(self._known_tasks))
                raise BadRequest(f"x-junctor-task: '{stated}' is not a task; it may be {names}", param="x-junctor-task")
            return Task(stated, 1.0, "header")
        found = classify(view.request)
        if found.confidence >= settings.min_confidence:
            return found
        return Task("chat", found.confidence, "classifier", (f"too uncertain for {found.name}",))

    @hookimpl
    async def call(self, exchange: Exchange, target: Target) -> None:
        """Never answers: it moves the exchange to the target that is called, for the count of what is in flight."""
        ticket: _Ticket | None = exchange.state.get(_STATE)
        if ticket is not None and target is not ticket.target:
            ticket.move(target, self._live(target))

    @hookimpl
    async def post_call(self, exchange: Exchange, response: Response | None) -> None:
        ticket: _Ticket | None = exchange.state.pop(_STATE, None)
        now = time.monotonic()
        if ticket is not None:
            ticket.live.in_flight -= 1
            self._settle(ticket, exchange.attempts)
        for attempt in exchange.attempts:
            live = self._lives.get(live_key(attempt.target))
            if live is None:
                continue
            live.learn(attempt, streamed=exchange.request.stream, now=now)
            self._is_full(live.limits.full_until)
        if response is None or response.cached is not None or response.target is None:
            return
        self._learn(exchange, response, now)

    def _learn(self, exchange: Exchange, response: Response, now: float) -> None:
        assert response.target is not None
        live = self._lives.get(live_key(response.target))
        # A client's own key has limits of its own.
        if live is not None and response.provider_headers and not exchange.facts.get("byok"):
            live.limits.read(response.provider_headers, now, time.time())
            self._is_full(live.limits.full_until)
        if response.usage is not None and exchange.model is not None and not response.usage.estimated:
            name, output = exchange.model.name, response.usage.output_tokens
            old = self._expected.get(name)
            self._expected[name] = output if old is None else old + 0.1 * (output - old)

    def _settle(self, ticket: _Ticket, attempts: Sequence[Attempt]) -> None:
        """Replace what was expected of a target's limits with what was used."""
        wall = time.time()
        expected = ticket.expected
        for attempt in attempts:
            live = self._lives.get(live_key(attempt.target))
            sent = not isinstance(attempt.error, ProviderError) or attempt.error.sent
            if live is None or not live.limits.known or not sent:
                continue
            used = attempt.usage.total_tokens if attempt.usage is not None else 0
            if live is ticket.first and expected:
                live.window.add(wall, 0, used - expected)
                expected = 0.0
            else:
                live.window.add(wall, 1, used)
        if expected:
            ticket.first.window.add(wall, -1, -expected)

    def _is_full(self, until: float) -> None:
        self._full_until = max(self._full_until, until)

    def figures(self) -> dict[str, dict[str, Any]]:
        """The live figures of every target, by its id, for a dashboard: seconds, shares, counts."""
        now, wall = time.monotonic(), time.time()
        return {
            key: {
                "ttft": live.ttft,
                "ttft_p95": live.ttft_sketch.quantile(95, now),
                "seconds_per_token": live.tpt,
                "duration_p95": live.duration_sketch.quantile(95, now),
                "in_flight": live.in_flight,
                "errors": round(live.errors, 4),
                "headroom": round(live.limits.headroom(live.window.used(wall), 0, now), 4),
            }
            for key, live in self._lives.items()
        }


def live_key(target: Target) -> str:
    """Figures belong to a provider's model at an address, with a key."""
    return f"{target.id} {target.base_url}" if target.base_url else target.id


def _required(exchange: Exchange) -> Sequence[str]:
    """The tags that the content policy wants, also for questions that the gateway asks about this request."""
    found: list[str] = exchange.facts.get("require_tags") or []
    if exchange.parent is not None:
        found = [*found, *(exchange.parent.facts.get("require_tags") or [])]
    return found


def _full_last(ranked: Ranked, now: float) -> Ranked:
    """Targets that have said 'no more for now' come last, whatever the strategy."""
    free = [pair for pair in ranked if now >= pair[1].live.limits.full_until]
    full = [pair for pair in ranked if now < pair[1].live.limits.full_until]
    return free + full
