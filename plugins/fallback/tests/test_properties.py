"""Whatever fails, and however the circuits stand: the plan ends, within its limits, and spares open circuits."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from hypothesis import given, settings
from hypothesis import strategies as st
from junctor import Attempt, ErrorKind, Exchange, Model, Price, ProviderError, Request, Target, TargetUnavailable
from junctor.wire import OPENAI
from junctor_fallback import FallbackSettings
from junctor_fallback.circuit import Budget, Circuit, CircuitState
from junctor_fallback.guard import Guards
from junctor_fallback.plan import Failure, Planner, Run, guess_usage
from junctor_fallback.settings import BudgetSettings, CircuitSettings

if TYPE_CHECKING:
    from collections.abc import Sequence

_KINDS = [kind for kind in ErrorKind if kind is not ErrorKind.UNAVAILABLE]
_MAX_COST = 0.01

errors = st.tuples(
    st.sampled_from(_KINDS),
    st.none() | st.floats(0, 100),
    st.sampled_from([None, 401, 403, 503]),
    st.floats(0, 20),  # seconds until it failed
)
scenarios = st.fixed_dictionaries(
    {
        "windows": st.lists(st.sampled_from([None, 1000, 2000]), min_size=1, max_size=6),
        "open": st.sets(st.integers(0, 5)),
        "prices": st.lists(st.sampled_from([0, 1_000, 10_000_000_000]), min_size=6, max_size=6),
        "keys": st.lists(st.sampled_from(["a", "b"]), min_size=6, max_size=6),
        "errors": st.lists(errors, min_size=1, max_size=30),
        "max_attempts": st.integers(1, 6),
        "retries": st.integers(0, 4),
        "retry_first": st.integers(0, 2),
        "deadline": st.floats(0.1, 60),
    }
)


class Play:
    """Plays a scenario as the pipeline and the plugin would, on a clock of its own."""

    def __init__(self, scenario: dict[str, Any]) -> None:
        self.now = self.start = time.monotonic()
        self.settings = FallbackSettings.model_validate(
            {key: scenario[key] for key in ("max_attempts", "retries", "retry_first")} | {"max_cost": _MAX_COST}
        )
        self.targets = [
            Target("p", f"m{n}", scenario["keys"][n], context_window=window, price=Price(scenario["prices"][n]))
            for n, window in enumerate(scenario["windows"])
        ]
        self.guards = Guards(self.targets, self.settings, lambda circuit: None)
        for number in scenario["open"]:
            if number < len(self.targets):
                self.guards.of(self.targets[number]).endpoint.open_until(self.now, self.now + 1e6, "test")
        model = Model("test", tuple(self.targets))
        self.planner = Planner(self.settings, self.guards.of, {"test": model}, attempts=10)
        request = Request(OPENAI, "chat", {"messages": []}, "test", size=400)
        deadline = self.now + scenario["deadline"]
        self.exchange = Exchange("x", request, model, targets=self.targets, started=self.now, deadline=deadline)
        self.errors: Sequence[Any] = scenario["errors"]
        self.run = Run()
        self.called: list[tuple[Target, float, bool]] = []

    def play(self) -> None:
        target: Target | None = self.targets[0]
        for kind, retry_after, status, lasted in self.errors * 10:
            assert target is not None
            error = self.call(target, kind, retry_after, status, lasted)
            self.run.failures.append(Failure(target, error, self.now))
            step = self.planner.following(self.exchange, self.run, self.now)
            if step is None:
                return
            self.now += step.wait
            target = step.target
        raise AssertionError("the plan does not end")

    def call(self, target: Target, kind: ErrorKind, retry_after: Any, status: Any, lasted: float) -> ProviderError:
        attempt = Attempt(target, started=self.now)
        self.exchange.attempts.append(attempt)
        guard = self.guards.of(target)
        if not guard.ready(self.now) and self.planner.better(self.exchange, self.run, target, self.now):
            attempt.error = TargetUnavailable("open")
            return attempt.error
        spared = any(
            self.guards.of(other).ready(self.now)
            for other in self.planner.fitting(self.exchange, self.run)
            if other is not target
        )
        self.called.append((target, self.now, guard.ready(self.now) or not spared))
        self.run.calls += 1
        self.now += lasted
        attempt.error = ProviderError("x", kind=kind, retry_after=retry_after, provider_status=status)
        return attempt.error


@settings(max_examples=300, deadline=None)
@given(scenarios)
def test_the_plan_ends_within_its_attempts_and_its_deadline(scenario: dict[str, Any]) -> None:
    play = Play(scenario)
    play.play()
    assert len(play.called) <= scenario["max_attempts"]
    assert len(play.exchange.attempts) <= 10
    assert all(at < play.exchange.deadline for _, at, _ in play.called[1:])


@settings(max_examples=300, deadline=None)
@given(scenarios)
def test_it_never_calls_an_open_target_while_another_is_closed(scenario: dict[str, Any]) -> None:
    play = Play(scenario)
    play.play()
    assert all(rightly for _, _, rightly in play.called)


@settings(max_examples=300, deadline=None)
@given(scenarios)
def test_it_never_adds_a_call_that_costs_too_much(scenario: dict[str, Any]) -> None:
    play = Play(scenario)
    play.play()
    guess = guess_usage(play.exchange)
    for target, _, _ in play.called[1:]:
        assert target.price is not None
        assert target.price.of(guess).total <= _MAX_COST * 1e9


@settings(max_examples=300, deadline=None)
@given(scenarios)
def test_no_key_is_used_again_that_has_no_quota(scenario: dict[str, Any]) -> None:
    play = Play(scenario)
    play.play()
    spent = set()
    for failure in play.run.failures:
        if failure.called:
            assert failure.target.api_key not in spent
        if failure.error.kind is ErrorKind.QUOTA_EXHAUSTED:
            spent.add(failure.target.api_key)


steps = st.lists(st.tuples(st.sampled_from(["good", "bad", "wait", "abandon"]), st.floats(0, 10)), max_size=80)


@settings(max_examples=300, deadline=None)
@given(steps)
def test_a_circuit_never_has_more_probes_than_allowed_and_always_comes_back(history: list[tuple[str, float]]) -> None:
    limits = CircuitSettings.model_validate({"min_requests": 3, "probes": 2, "open_for": 5, "max_open": 20})
    circuit, now, running = Circuit("x", limits), 1000.0, []
    for what, seconds in history:
        now += seconds
        if circuit.ready(now):
            attempt = Attempt(Target("p", "m"), started=now)
            running.append(attempt)
            if circuit.state is CircuitState.HALF_OPEN:
                circuit.probe(attempt)
        assert len(circuit.probing) <= 2
        if what != "wait" and running:
            ending = running.pop(0)
            if what == "good":
                circuit.succeeded(now, ending)
            elif what == "bad":
                circuit.failed(now, ErrorKind.OVERLOADED, ending)
            else:
                circuit.released(ending)
    for attempt in running:
        circuit.released(attempt)
    assert circuit.ready(now + 20.001)


@given(st.lists(st.sampled_from(["first", "retry", "refund"]), max_size=300))
def test_retries_stay_under_the_budgets_share(history: list[str]) -> None:
    budget = Budget(BudgetSettings(share=0.2, burst=10, per_second=0), 0.0)
    firsts = retries = refunds = 0
    for what in history:
        if what == "first":
            firsts += 1
            budget.deposit()
        elif what == "retry" and budget.available(0.0):
            retries += 1
            budget.take()
        elif what == "refund" and refunds < retries:
            refunds += 1
            budget.refund()
    assert retries - refunds <= 10 + 0.2 * firsts + 1e-6
