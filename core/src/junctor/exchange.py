"""One request, its attempts and its outcome: the objects that the hooks are given."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

from junctor import jsons
from junctor.errors import ClientDisconnected
from junctor.prices import Cost, Price

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from junctor.errors import GatewayError
    from junctor.stream import Stream
    from junctor.wire import Wire

__all__ = [
    "Attempt",
    "Client",
    "Exchange",
    "Model",
    "ProviderKeys",
    "Request",
    "Response",
    "Target",
    "Timeouts",
    "Transform",
    "Usage",
]


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens, as the provider counted them.

    `input_tokens` is the whole input, with what was read from or written to the provider's cache; `output_tokens` is
    the whole output, with reasoning. `estimated` marks figures that no provider confirmed (a stream that was cut off).
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    reasoning_tokens: int = 0
    estimated: bool = False

    @property
    def total_tokens(self) -> int:
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. `first_byte` lasts until the first chunk, `between_chunks` is silence in a stream, `total` is all."""

    connect: float = 10.0
    first_byte: float = 120.0
    between_chunks: float = 60.0
    total: float = 600.0


@dataclass(frozen=True, slots=True)
class Target:
    """Where an attempt goes: a provider's model, with a key, parameters and facts. Written `provider/model`.

    `params` are defaults: they apply where the client's body is silent. `wire` is what the target speaks. `key_id`
    names the key without telling it. `limits` are the provider's own requests and tokens per minute, if known. `form`
    is what of it can change an answer: not its key, not its weight.
    """

    provider: str
    model: str
    api_key: str | None = field(default=None, repr=False)
    key_id: str = ""
    base_url: str | None = None
    wire: str = "openai"
    headers: Mapping[str, str] = field(default_factory=dict, repr=False, hash=False)
    params: Mapping[str, Any] = field(default_factory=dict, repr=False, hash=False)
    weight: float = 1.0
    tags: frozenset[str] = frozenset()
    price: Price | None = field(default=None, repr=False)
    context_window: int | None = None
    supports: frozenset[str] = frozenset()
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    timeouts: Timeouts = Timeouts()
    name: str = field(init=False, default="")
    id: str = field(init=False, default="")
    form: str = field(init=False, default="", repr=False, compare=False)
    _hash: int = field(init=False, default=0, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", f"{self.provider}/{self.model}")
        object.__setattr__(self, "id", f"{self.name}#{self.key_id}" if self.key_id else self.name)
        form = jsons.canonical([self.name, self.base_url, self.wire, dict(self.params)])
        object.__setattr__(self, "form", form.decode())
        object.__setattr__(self, "_hash", hash((self.id, self.api_key, self.base_url)))

    def __hash__(self) -> int:
        return self._hash  # targets are looked up for every request

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Model:
    """A name that clients ask for, and the targets that may answer, in the order of the file."""

    name: str
    targets: tuple[Target, ...]
    timeouts: Timeouts = Timeouts()


@dataclass(frozen=True, slots=True)
class Client:
    """Who calls. Without an auth plugin everyone is the same anonymous client.

    `models` and `endpoints` limit what may be asked for (None: everything). `tags` are free attributes, such as a
    cost centre, that come with the key. `expires` is when the key ends, in seconds since the epoch.
    """

    key_id: str = ""
    name: str = "anonymous"
    team: str = ""
    project: str = ""
    feature: str = ""
    tier: str = ""
    end_user: str = ""
    models: frozenset[str] | None = None
    endpoints: frozenset[str] | None = None
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)
    expires: float | None = None


# Headers of a target that carry a credential: with another's key, they would still pay with the gateway's.
_CREDENTIALS = frozenset({"authorization", "api-key", "x-api-key", "x-goog-api-key", "proxy-authorization", "cookie"})


@dataclass(frozen=True, slots=True)
class ProviderKeys:
    """Keys of the client's own, by provider; each goes to no other provider. `key_id` names their owner.

    With `only`, targets of other providers are not called at all. A model's other targets use the gateway's keys.
    """

    keys: Mapping[str, str] = field(repr=False)
    key_id: str = "byok"
    only: bool = False

    def on(self, target: Target) -> Target | None:
        """The target with the client's key, or as it is if there is none; None if it must not be called then."""
        key = self.keys.get(target.provider)
        if key is None:
            return None if self.only else target
        if target.api_key == key and target.key_id == self.key_id:
            return target
        headers = {name: value for name, value in target.headers.items() if name.lower() not in _CREDENTIALS}
        return replace(target, api_key=key, key_id=self.key_id, headers=headers)

    def covers(self, target: Target) -> bool:
        """Whether a call of the target is paid with the client's own key."""
        return target.provider in self.keys


@dataclass(slots=True, eq=False)
class Request:
    """What the client asked, in its own wire. `body` is the parsed JSON; plugins may change it in `pre_route`.

    `operation` is one of `chat`, `completions`, `embeddings`, `models`, or what a plugin's wire adds. `headers` has
    lower-case names. `size` is the length of the body in bytes.

    `for_model` is False where the gateway answers by itself once `pre_route` has let the request pass: the list of
    models, and a request that cannot be read (`body` has the parameters of the path at most). Who asks counts there,
    what is asked does not.
    """

    wire: Wire
    operation: str
    body: dict[str, Any]
    model: str = ""
    stream: bool = False
    headers: Mapping[str, str] = field(default_factory=dict)
    path: str = ""
    size: int = 0
    for_model: bool = True


@dataclass(slots=True, eq=False)
class Attempt:
    """One call of one target. Times are `time.monotonic()` seconds; `ended` and `first_byte` are 0 until they happen.

    `error` is None for an attempt that answered. `abandoned` marks one that nobody waited for to its end (the client
    hung up, the deadline passed, a hedge won): the provider may still bill it. A plugin that held it back for so long
    sets its `error`, as it was never sent. `of` is empty, or says that a plugin made it beside the main one: `hedge`.
    """

    target: Target
    started: float = field(default_factory=time.monotonic)
    first_byte: float = 0.0
    ended: float = 0.0
    error: GatewayError | None = None
    usage: Usage | None = None
    cost: Cost | None = None
    abandoned: bool = False
    of: str = ""

    @property
    def duration(self) -> float:
        """Seconds from the call to its last byte, or until now."""
        return (self.ended or time.monotonic()) - self.started


@dataclass(slots=True, eq=False)
class Response:
    """An answer in the client's wire: whole (`body`), or in pieces (`stream` is set).

    `headers` go to the client, `provider_headers` are what the provider sent (lower-case names). `cached` is None, or
    says which cache answered: `exact`, `semantic`. `cost` is None while unknown or unpriced. `attempt` is the one that
    this answer came from, set by the core; a plugin that goes on with another attempt puts that one here.
    """

    body: bytes = b""
    stream: Stream | None = None
    status: int = 200
    content_type: str = "application/json"
    headers: dict[str, str] = field(default_factory=dict)
    provider_headers: Mapping[str, str] = field(default_factory=dict)
    target: Target | None = None
    usage: Usage | None = None
    finish_reason: str | None = None
    model: str = ""
    cached: str | None = None
    cost: Cost | None = None
    attempt: Attempt | None = None


class Transform(Protocol):
    """Changes an answer on its way. Put one on `exchange.transforms` in `pre_route`.

    A stream is given as whole events in the client's wire; `feed` may return fewer or more bytes than it was given,
    `flush` what is left at a clean end, before the end marker.
    """

    def feed(self, events: bytes) -> bytes: ...
    def flush(self) -> bytes: ...
    def whole(self, body: bytes) -> bytes: ...


@dataclass(slots=True, eq=False)
class Exchange:
    """One request on its way through the hooks. Plugins read it, and write the parts that are theirs.

    `facts` is what plugins tell each other and the log: plain values under documented names (`sensitivity`, `task`,
    `budget_used`, `route`, `cache` …). `state` is a plugin's private room, under its own key. `headers` go to the
    client with the answer, `provider_headers` to the provider with the call that begins next (those of a trace, say).
    `on_attempt` is called with each attempt as it begins, `on_answer` with the answer that it will be, whole or with
    its first chunk there, before the client gets any of it; they must not raise. `timings` are seconds by (plugin,
    hook). `deadline` is a `time.monotonic()` value. `purpose` is empty for a client's request; the gateway's own
    (`judge`, `embedding`, `moderation`) name it and their `parent`, and are let pass by auth, quotas, content policy
    and caches.
    """

    id: str
    request: Request
    model: Model | None = None
    client: Client = Client()
    targets: Sequence[Target] = ()
    attempts: list[Attempt] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)
    state: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    transforms: list[Transform] = field(default_factory=list)
    provider_headers: dict[str, str] = field(default_factory=dict)
    on_attempt: list[Callable[[Attempt], None]] = field(default_factory=list)
    on_answer: list[Callable[[Response], None]] = field(default_factory=list)
    timings: dict[tuple[str, str], float] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    started_at: float = field(default_factory=time.time)
    deadline: float = float("inf")
    first_byte: float = 0.0
    parent: Exchange | None = None
    purpose: str = ""
    provider_keys: ProviderKeys | None = None
    record_limit: int = 0
    client_gone: bool = False
    cancel: Callable[[], object] | None = None
    ending: GatewayError | None = None
    _holders: int = 0

    def record(self, max_bytes: int) -> None:
        """Ask for the answer's bytes in `post_call` (`stream.recorded`), up to this size."""
        self.record_limit = max(self.record_limit, max_bytes)

    def hold(self) -> None:
        """Keep the exchange running to its end even if its client hangs up: others wait for the same answer."""
        self._holders += 1

    def release(self) -> None:
        """Take back one `hold`; an exchange that nobody waits for any more is cancelled."""
        self._holders -= 1
        if self.client_gone:
            self.hang_up()

    def hang_up(self) -> None:
        """The client is gone: end the exchange, unless somebody holds it."""
        self.client_gone = True
        if self._holders <= 0:
            self.end(ClientDisconnected("the client hung up"))

    def as_told(self, error: BaseException | None) -> BaseException | None:
        """How it ended for its client, who may have hung up though the exchange went on, for others, to its end."""
        return ClientDisconnected("the client hung up") if error is None and self.client_gone else error

    def end(self, error: GatewayError) -> None:
        """End the exchange with this error, wherever it is; without effect on one that is over."""
        if self.cancel is not None and self.ending is None:
            self.ending = error
            self.cancel()

    @property
    def overhead(self) -> float:
        """Seconds until the answer began that were not spent waiting for a provider."""
        until = self.first_byte or time.monotonic()
        spent = until - self.started
        for attempt in self.attempts:
            spent -= (attempt.first_byte or attempt.ended or until) - attempt.started
        return max(0.0, spent)

    @property
    def cost(self) -> Cost | None:
        """What all attempts cost together; None if one that used tokens has no price."""
        total: Cost | None = None
        for attempt in self.attempts:
            if attempt.cost is not None:
                total = attempt.cost if total is None else total + attempt.cost
            elif attempt.usage is not None:
                return None
        return total or Cost()
