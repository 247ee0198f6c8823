"""Continue a text that broke off: another target is given what was sent as the beginning of its own answer.

This is safe for plain text only, so everything else is left at one typed error: requests with tools, a response format,
several choices or log-probabilities, answers in which anything but text has been sent, and errors that are the
provider's decision (its content filter) and not a fault. The client sees one answer: one id, one usage, the words that
both attempts gave only once.
"""

from __future__ import annotations

import dataclasses
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from junctor import ErrorKind, ProviderError, Usage, jsons
from junctor.openai_events import split_events
from junctor.stream import Continuation

from junctor_fallback.plan import Failure, guess_usage

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable

    from junctor import Attempt, Exchange, Gateway, Response, Stream, Target

    from junctor_fallback.guard import Guards
    from junctor_fallback.plan import Planner, Run
    from junctor_fallback.settings import ContinueSettings

__all__ = ["Continuer", "prefill"]

_FAULTS = frozenset({ErrorKind.CONNECTION, ErrorKind.OVERLOADED, ErrorKind.PROTOCOL, ErrorKind.TIMEOUT})
# Fields of a request that make its answer more than plain text.
_FORBIDDEN = (
    "audio",
    "function_call",
    "functions",
    "logprobs",
    "modalities",
    "reasoning",
    "reasoning_effort",
    "thinking",
)
_LEAST_OVERLAP = 12  # characters; what is shorter may repeat by chance
_MOST_OVERLAP = 400
_RESTART = 48  # characters by which an answer is recognised that begins anew
_RECORD = 8 * 1024 * 1024
# How a provider is told that the last message is a beginning: `prefill:NAME` among the target's tags.
_DIALECTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "prefill": ({}, {}),
    "prefill:prefix": ({"prefix": True}, {}),
    "prefill:vllm": ({}, {"add_generation_prompt": False, "continue_final_message": True}),
}


def prefill(target: Target) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """What to add to the last message and to the body for this target; None if it cannot continue a text."""
    return next((_DIALECTS[tag] for tag in sorted(target.tags) if tag in _DIALECTS), None)


class Continuer:
    """Watches the streams of its models and goes on with them elsewhere when they break."""

    def __init__(
        self, settings: ContinueSettings, gateway: Gateway, guards: Guards, planner: Planner, plugin: object
    ) -> None:
        self._settings = settings
        self._models = frozenset(settings.models)
        self._gateway = gateway
        self._guards = guards
        self._planner = planner
        self._plugin = plugin

    def may(self, exchange: Exchange, model: str) -> bool:
        """Whether the request's stream could be continued; asks for its bytes if so."""
        request = exchange.request
        if not (request.stream and model in self._models and request.operation == "chat"):
            return False
        if request.wire.name != "openai" or not _plain_request(request.body):
            return False
        exchange.record(_RECORD)
        return True

    def watch(self, exchange: Exchange, run: Run, response: Response | None) -> None:
        stream = response.stream if response is not None else None
        if response is None or stream is None:
            return

        async def rescue(error: ProviderError) -> Continuation | None:
            return await self._go_on(exchange, run, response, stream, error)

        stream.on_break(rescue)

    async def _go_on(
        self, exchange: Exchange, run: Run, response: Response, stream: Stream, error: ProviderError
    ) -> Continuation | None:
        sent = _sent(stream) if error.kind in _FAULTS and stream.reader.finish_reason is None else None
        broken = response.attempt
        if sent is None or broken is None or (exchange.client_gone and not stream.shared):
            return None
        if len(sent.text) > self._settings.max_text:
            return None
        target = self._target(exchange, run, broken.target)
        if target is None:
            return None
        self._close_account(exchange, run, stream, broken, error)
        follower = await self._call(exchange, run, target, sent)
        if follower is None or follower.stream is None or follower.attempt is None:
            return None
        response.attempt = follower.attempt
        run.continued = (broken, follower.attempt)
        fact = {"from": broken.target.name, "to": target.name, "error": error.kind.value, "characters": len(sent.text)}
        exchange.facts["continued"] = fact
        reader = exchange.request.wire.reader(exchange.request)
        reader.model, reader.events = stream.reader.model, stream.reader.events
        spliced = _Splice(sent, follower.stream, target, broken.usage or Usage(), fact)
        return Continuation(spliced.events(), reader, follower.stream.aclose)

    def _target(self, exchange: Exchange, run: Run, broken: Target) -> Target | None:
        """Another target that can, or the same one again."""
        now = time.monotonic()
        if now >= exchange.deadline:
            return None
        able = [target for target in self._planner.fitting(exchange, run) if prefill(target) is not None]
        for target in sorted(able, key=lambda target: target is broken):
            guard = self._guards.of(target)
            if guard.ready(now) and guard.budget.available(now):
                return target
        return None

    def _close_account(
        self, exchange: Exchange, run: Run, stream: Stream, attempt: Attempt, error: ProviderError
    ) -> None:
        """The first attempt is over: nobody has counted it, so its usage is what can be known of it."""
        attempt.ended = time.monotonic()
        attempt.error = error
        tokens = guess_usage(exchange).input_tokens
        attempt.usage = stream.reader.usage or Usage(tokens, stream.reader.events, estimated=True)
        if attempt.target.price is not None:
            attempt.cost = attempt.target.price.of(attempt.usage)
        run.failures.append(Failure(attempt.target, error, attempt.ended))
        if run.guard is not None:
            run.guard.in_flight -= 1
            run.guard.settle(attempt, attempt.ended, error, run.told)
            run.guard = run.paid = None

    async def _call(self, exchange: Exchange, run: Run, target: Target, sent: _Sent) -> Response | None:
        guard = self._guards.of(target)
        guard.budget.take()
        guard.in_flight += 1
        request = exchange.request
        place = len(exchange.attempts)
        try:
            # Only while it is sent: what caches and logs see is what the client asked.
            exchange.request = dataclasses.replace(request, body=_continued_body(request.body, target, sent))
            follower = await self._gateway.attempt(exchange, target, after=self._plugin, of="continue")
        except BaseException as error:
            guard.in_flight -= 1
            for attempt in exchange.attempts[place:]:
                guard.settle(attempt, time.monotonic(), error, run.told)
            if isinstance(error, ProviderError):
                return None
            raise
        finally:
            exchange.request = request
        run.guard, run.attempt, run.paid = guard, follower.attempt, guard
        return follower

    def settle(self, run: Run, response: Response | None) -> None:
        """Give each attempt its own usage back: the client has seen the sum."""
        if run.continued is None or response is None or response.usage is None:
            return
        first, second = run.continued
        spent, whole = first.usage or Usage(), response.usage
        second.usage = dataclasses.replace(
            whole,
            input_tokens=max(0, whole.input_tokens - spent.input_tokens),
            output_tokens=max(0, whole.output_tokens - spent.output_tokens),
        )
        if second.target.price is not None:
            second.cost = second.target.price.of(second.usage)
        costs = [attempt.cost for attempt in run.continued]
        response.cost = costs[0] + costs[1] if costs[0] is not None and costs[1] is not None else None


def _plain_request(body: dict[str, Any]) -> bool:
    if any(body.get(field) for field in _FORBIDDEN) or body.get("n") not in (None, 1):
        return False
    if body.get("tools") and body.get("tool_choice") != "none":
        return False
    form = body.get("response_format")
    return form is None or (isinstance(form, dict) and form.get("type") == "text")


class _Sent(NamedTuple):
    """What the client has: the text, and the fields that every event of one answer repeats."""

    text: str
    head: dict[str, Any]
    events: int


def _sent(stream: Stream) -> _Sent | None:
    """The text that was sent; None if it was not text alone, or nothing."""
    if stream.recorded is None:
        return None
    text, count = "", 0
    head: dict[str, Any] = {}
    for payload in split_events(stream.recorded):
        event = jsons.loads(payload)
        head = head or {key: event[key] for key in ("id", "object", "created", "model") if key in event}
        part = _text_of(event)
        if part is None:
            return None
        text += part
        count += 1
    return _Sent(text, head, count) if text.strip() else None


def _text_of(event: dict[str, Any]) -> str | None:
    """The text of one event; None if there is anything but text in it."""
    text = ""
    for choice in event.get("choices") or ():
        delta = choice.get("delta") or {}
        held = {key for key, value in delta.items() if value}
        if choice.get("index", 0) != 0 or held - {"role", "content"} or not isinstance(delta.get("content") or "", str):
            return None
        text += delta.get("content") or ""
    return text


def _continued_body(body: dict[str, Any], target: Target, sent: _Sent) -> dict[str, Any]:
    message, more = prefill(target) or ({}, {})
    # Providers refuse a beginning that ends in white space.
    beginning = {"role": "assistant", "content": sent.text.rstrip(), **message}
    continued = {**body, **more, "messages": [*body["messages"], beginning]}
    for limit in ("max_tokens", "max_completion_tokens"):
        if isinstance(body.get(limit), int):
            continued[limit] = max(1, body[limit] - sent.events)
    return continued


class _Splice:
    """The second answer's events as the rest of the first one."""

    def __init__(self, sent: _Sent, follower: Stream, target: Target, spent: Usage, fact: dict[str, Any]) -> None:
        self._sent = sent
        self._follower = follower
        self._target = target
        self._spent = spent
        self._fact = fact
        self._held: str | None = ""
        self._marked = False

    async def events(self) -> AsyncIterator[bytes]:
        """Server-sent events in OpenAI's wire; raises `ProviderError` for anything but text."""
        async for chunk in self._follower:
            for payload in split_events(chunk):
                for event in self._rewritten(jsons.loads(payload)):
                    yield event
        for event in self._released():
            yield event
        yield self._event([], usage=self._usage())

    def _rewritten(self, event: dict[str, Any]) -> Iterable[bytes]:
        text = _text_of(event)
        if text is None:
            raise ProviderError(f"{self._target} went on with something other than text", kind=ErrorKind.PROTOCOL)
        finish = next((choice.get("finish_reason") for choice in event.get("choices") or ()), None)
        if self._held is None:
            yield from self._delta(text)
        elif text:
            self._held += text
            if not self._may_repeat(self._held):
                yield from self._released()
        if finish is not None:
            yield from self._released()
            yield self._event([{"index": 0, "delta": {}, "finish_reason": finish}])

    def _may_repeat(self, text: str) -> bool:
        """Whether more text could still show that it repeats what was sent."""
        if len(text) >= _MOST_OVERLAP:
            return False
        start = text.lstrip()[:_LEAST_OVERLAP]
        return len(start) < _LEAST_OVERLAP or start in self._sent.text[-_MOST_OVERLAP:] or self._restarts(text)

    def _restarts(self, text: str) -> bool:
        start = self._sent.text[:_RESTART]
        return len(start) == _RESTART and start.startswith(text.lstrip()[:_RESTART])

    def _released(self) -> Iterable[bytes]:
        """What was held back, without what the client has already."""
        held, self._held = self._held, None
        if not held:
            return
        if self._restarts(held) and len(held.lstrip()) >= _RESTART:
            raise ProviderError(f"{self._target} began its answer anew instead of going on", kind=ErrorKind.PROTOCOL)
        rest = _without_overlap(self._sent.text, held)
        self._fact["overlap"] = len(held) - len(rest)
        yield from self._delta(rest)

    def _delta(self, text: str) -> Iterable[bytes]:
        if text:
            yield self._event([{"index": 0, "delta": {"content": text}, "finish_reason": None}])

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        event: dict[str, Any] = {**self._sent.head, "choices": choices, **more}
        if not self._marked:
            self._marked = True
            event["junctor"] = {"continued": {"from": self._fact["from"], "to": self._fact["to"]}}
        return b"data: " + jsons.dumps(event) + b"\n\n"

    def _usage(self) -> dict[str, Any]:
        own = self._follower.reader.usage or Usage(0, self._follower.reader.events)
        prompt = own.input_tokens + self._spent.input_tokens
        completion = own.output_tokens + self._spent.output_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": own.cache_read_tokens + self._spent.cache_read_tokens},
            "completion_tokens_details": {"reasoning_tokens": own.reasoning_tokens},
        }


def _without_overlap(sent: str, text: str) -> str:
    """The text without the beginning that repeats the end of what was sent."""
    bare = text.lstrip() if sent != sent.rstrip() else text
    for candidate in (bare, text.lstrip()):
        for length in range(min(len(candidate), len(sent), _MOST_OVERLAP), _LEAST_OVERLAP - 1, -1):
            if sent.rstrip().endswith(candidate[:length]) or sent.endswith(candidate[:length]):
                return candidate[length:]
    return bare
