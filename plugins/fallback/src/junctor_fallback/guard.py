"""What is known of each target: its circuits, its retry budget, what is in flight, how fast it begins to answer."""

from __future__ import annotations

import hashlib
import time
from collections import Counter, OrderedDict, deque
from typing import TYPE_CHECKING, Any

from junctor import DeadlineExceeded, ErrorKind, ProviderError

from junctor_fallback.circuit import Budget, Circuit, CircuitState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from junctor import Attempt, Target

    from junctor_fallback.settings import FallbackSettings

__all__ = ["Guard", "Guards"]

# Whose matter a failure is: of the provider's endpoint, of the key's rate at this model, or of the key altogether.
ENDPOINT_KINDS = frozenset({ErrorKind.OVERLOADED, ErrorKind.TIMEOUT, ErrorKind.CONNECTION, ErrorKind.PROTOCOL})
KEY_KINDS = frozenset({ErrorKind.QUOTA_EXHAUSTED, ErrorKind.AUTHENTICATION})
_SILENT_KINDS = frozenset({ErrorKind.INTERNAL, ErrorKind.UNAVAILABLE})
_SAMPLES = 200
_MAX_PASSING = 1000


class Guard:
    """One target's record. `endpoint` and `credential` are shared with the other targets that use them."""

    __slots__ = (
        "_p95",
        "_slow_call",
        "budget",
        "credential",
        "endpoint",
        "in_flight",
        "rate",
        "starts",
        "target",
    )

    def __init__(
        self, target: Target, endpoint: Circuit, rate: Circuit, credential: Circuit, settings: FallbackSettings
    ) -> None:
        self.target = target
        self.endpoint = endpoint
        self.rate = rate
        self.credential = credential
        self.budget = Budget(settings.retry_budget, time.monotonic())
        self.in_flight = 0
        self.starts: dict[bool, deque[float]] = {}
        self._p95: dict[bool, tuple[int, float]] = {}
        self._slow_call = settings.circuit.slow_call or float("inf")

    @property
    def circuits(self) -> tuple[Circuit, Circuit, Circuit]:
        return self.endpoint, self.rate, self.credential

    def ready(self, now: float) -> bool:
        """Whether the target may be called."""
        return self.endpoint.ready(now) and self.rate.ready(now) and self.credential.ready(now)

    def rank(self, now: float) -> int:
        """0 may be called, 1 is being probed, 2 rests or is open."""
        if self.ready(now):
            return 0
        return 2 if any(c.state in (CircuitState.OPEN, CircuitState.RESTING) for c in self.circuits) else 1

    def ready_at(self, when: float) -> bool:
        return self.endpoint.ready_at(when) and self.rate.ready_at(when) and self.credential.ready_at(when)

    def opens_in(self, now: float) -> float:
        """Seconds until it may be called again; 0 if it may be now."""
        return max(0.0, *(circuit.until - now for circuit in self.circuits))

    def ramp_share(self, now: float) -> float:
        return min(circuit.ramp_share(now) for circuit in self.circuits)

    def probe(self, attempt: Attempt) -> None:
        """Let the attempt through as a probe where a circuit is half open."""
        for circuit in self.circuits:
            if circuit.state is CircuitState.HALF_OPEN:
                circuit.probe(attempt)

    def settle(self, attempt: Attempt, now: float, error: BaseException | None, told: set[int]) -> None:
        """Take the attempt's outcome. `told` is which circuits its exchange has told of a failure: each counts one."""
        failure = attempt.error
        if isinstance(failure, ProviderError):
            self._failed(attempt, failure.kind, now, told)
        elif failure is not None:
            self._released(attempt)
        elif attempt.first_byte:
            self._answered(attempt, now)
        elif isinstance(error, DeadlineExceeded):
            self._failed(attempt, ErrorKind.TIMEOUT, now, told)
        else:
            self._released(attempt)

    def _answered(self, attempt: Attempt, now: float) -> None:
        slow = attempt.first_byte - attempt.started > self._slow_call
        self.endpoint.succeeded(now, attempt, slow=slow)
        self.rate.succeeded(now, attempt)
        if not self.credential.quiet:
            self.credential.succeeded(now, attempt)

    def _failed(self, attempt: Attempt, kind: ErrorKind, now: float, told: set[int]) -> None:
        if kind in _SILENT_KINDS:
            self._released(attempt)
        elif kind in ENDPOINT_KINDS:
            self._tell(self.endpoint, kind, attempt, now, told)
            self.rate.released(attempt)
            self.credential.released(attempt)
        elif kind is ErrorKind.RATE_LIMITED:
            self.endpoint.succeeded(now, attempt)  # it is alive
            self._tell(self.rate, kind, attempt, now, told)
            self.credential.released(attempt)
        elif kind in KEY_KINDS:
            self.endpoint.succeeded(now, attempt)
            self.rate.released(attempt)
            self._tell(self.credential, kind, attempt, now, told)
        else:  # the client's own mistake: everything here has worked
            self._answered(attempt, now)

    def _tell(self, circuit: Circuit, kind: ErrorKind, attempt: Attempt, now: float, told: set[int]) -> None:
        if id(circuit) in told and circuit.state is CircuitState.CLOSED:
            return
        told.add(id(circuit))
        circuit.failed(now, kind, attempt)

    def _released(self, attempt: Attempt) -> None:
        for circuit in self.circuits:
            circuit.released(attempt)

    def started_after(self, seconds: float, *, stream: bool) -> None:
        """Note how long an answer took to begin."""
        samples = self.starts.get(stream)
        if samples is None:
            samples = self.starts[stream] = deque(maxlen=_SAMPLES)
        samples.append(seconds)
        self._p95.pop(stream, None)

    def p95(self, *, stream: bool, min_samples: int) -> float | None:
        """The 95th percentile of the time until an answer begins, in seconds; None while too little is known."""
        samples = self.starts.get(stream)
        if samples is None or len(samples) < min_samples:
            return None
        known = self._p95.get(stream)
        if known is None:
            ordered = sorted(samples)
            known = self._p95[stream] = (len(ordered), ordered[int(len(ordered) * 0.95)])
        return known[1]

    def snapshot(self, now: float) -> dict[str, Any]:
        """For the operator: plain values; `opens_until` is seconds since the epoch."""
        worst = max(self.circuits, key=lambda circuit: (not circuit.ready(now), circuit.until))
        states = {CircuitState.RESTING: "open", CircuitState.OPEN: "open", CircuitState.HALF_OPEN: "half_open"}
        self.budget.available(now)
        failures: Counter[ErrorKind] = Counter()
        for circuit in self.circuits:
            failures.update(circuit.failures(now))
        return {
            "target": self.target.name,
            "key_id": self.target.key_id,
            "circuit": states.get(worst.state, "closed"),
            "reason": worst.reason,
            "failures": {kind.value: count for kind, count in failures.items()},
            "in_flight": self.in_flight,
            "retry_budget": round(self.budget.tokens, 2),
            "opens_until": round(time.time() + worst.until - now, 3) if worst.until > now else None,
            "share": round(self.ramp_share(now), 3),
        }


class Guards:
    """The guards of all targets. Those that the configuration names are made at once and kept.

    A target that a plugin made for one request (with the client's own key, say) is known by what it says, for as long
    as it is among the last thousand.
    """

    def __init__(
        self, targets: Iterable[Target], settings: FallbackSettings, changed: Callable[[Circuit], None]
    ) -> None:
        self._settings = settings
        self._changed = changed
        self.circuits: dict[str, Circuit] = {}
        self._known: dict[tuple[str, ...], Guard] = {}
        self._passing: OrderedDict[tuple[str, ...], Guard] = OrderedDict()
        self.by_identity: dict[int, Guard] = {}
        self._kept: list[Target] = []
        for target in targets:
            key = _key(target)
            guard = self._known.get(key)
            if guard is None:
                guard = self._known[key] = self._made(target, self._shared, self._shared)
            self.by_identity[id(target)] = guard
            self._kept.append(target)  # its identity must not be given to another object

    def __iter__(self) -> Iterator[Guard]:
        return iter(self._known.values())

    def of(self, target: Target) -> Guard:
        """The target's guard."""
        guard = self.by_identity.get(id(target))
        return guard if guard is not None else self._by_key(target)

    def _by_key(self, target: Target) -> Guard:
        key = _key(target)
        guard = self._known.get(key) or self._passing.get(key)
        if guard is None:
            guard = self._passing[key] = self._made(target, self._seen, self._private)
            while len(self._passing) > _MAX_PASSING:
                self._passing.popitem(last=False)
        return guard

    def _made(self, target: Target, endpoint: Callable[[str], Circuit], key_circuit: Callable[[str], Circuit]) -> Guard:
        place = f"{target.name}@{target.base_url}" if target.base_url else target.name
        digest = hashlib.sha256((target.api_key or "").encode()).hexdigest()[:12]
        return Guard(
            target,
            endpoint(f"endpoint:{place}"),
            key_circuit(f"rate:{place}#{target.key_id}:{digest}"),
            key_circuit(f"key:{target.provider}@{target.base_url or ''}:{digest}"),
            self._settings,
        )

    def _shared(self, name: str) -> Circuit:
        circuit = self.circuits.get(name)
        if circuit is None:
            circuit = self.circuits[name] = Circuit(name, self._settings.circuit, self._changed)
        return circuit

    def _seen(self, name: str) -> Circuit:
        return self.circuits.get(name) or self._private(name)

    def _private(self, name: str) -> Circuit:
        return Circuit(name, self._settings.circuit)


def _key(target: Target) -> tuple[str, ...]:
    return (target.id, target.base_url or "", target.api_key or "", target.wire)
