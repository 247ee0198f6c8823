"""One request through the six hooks."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from junctor.errors import (
    ClientDisconnected,
    DeadlineExceeded,
    ErrorKind,
    GatewayError,
    NoTarget,
    NotFound,
    ProviderError,
    Refused,
    TargetUnavailable,
)
from junctor.exchange import Attempt, Usage
from junctor.limit import Limit
from junctor.plugins import each, each_outward, first
from junctor.secrets import Secrets, secrets_of_headers

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from junctor.exchange import Exchange, Model, ProviderKeys, Response, Target
    from junctor.plugins import Hook

__all__ = ["Pipeline"]

_log = logging.getLogger("junctor.pipeline")
_SECRETS = Secrets()


class Pipeline:
    """Carries exchanges through the hooks, in order, and ends each of them exactly once.

    `settle_timeout` is in seconds, for all `post_call` hooks of an exchange together. `running` counts the exchanges
    that have not ended.
    """

    def __init__(
        self,
        hook: dict[str, Hook],
        models: Mapping[str, Model],
        *,
        max_attempts: int = 10,
        settle_timeout: float = 10.0,
    ) -> None:
        self.running = 0
        self._models = models
        self._pre_route, self._route = hook["pre_route"], hook["route"]
        self._cache_lookup, self._call = hook["cache_lookup"], hook["call"]
        self._on_error, self._post_call = hook["on_error"], hook["post_call"]
        self._max_attempts = max_attempts
        self._settle_timeout = settle_timeout

    async def run(
        self,
        exchange: Exchange,
        deliver: Callable[[Exchange, Response], Awaitable[None]],
        answer: Callable[[Exchange], Response] | None = None,
    ) -> Response:
        """Answer the request and deliver the answer; the exchange is over, and settled, on return.

        `deliver` sends the response, whole or to the end of its stream. With `answer` the gateway answers by itself,
        after `pre_route` (see `Request.for_model`). `exchange.end(error)`, a hang-up or the deadline end it early.
        """
        response: Response | None = None
        error: BaseException | None = None
        task = asyncio.current_task()
        exchange.cancel = task.cancel if task is not None else None
        self.running += 1
        try:
            with Limit(exchange.deadline - time.monotonic()) as limit:
                response = await self._respond(exchange, answer)
                await deliver(exchange, response)
                if response.stream is not None and not response.stream.exhausted:
                    raise ClientDisconnected("the client hung up in the middle of the stream")
            return response
        except asyncio.CancelledError as cancelled:
            error = exchange.ending or cancelled
            if exchange.ending is not None and task is not None:
                task.uncancel()
                raise exchange.ending from cancelled
            raise
        except TimeoutError as timeout:
            error = timeout
            if not limit.expired:
                raise
            error = DeadlineExceeded("the request took longer than this gateway allows")
            raise error from timeout
        except BaseException as exc:
            error = exc
            if isinstance(exc, GatewayError):
                for attempt in exchange.attempts:
                    _hide_keys(exc, attempt.target)
            raise
        finally:
            # From here on nobody ends it: what remains are its accounts, which have their own limit in time.
            exchange.cancel = None
            self.running -= 1
            await self._settle(exchange, response, error)

    async def _respond(self, exchange: Exchange, answer: Callable[[Exchange], Response] | None) -> Response:
        await each(self._pre_route, exchange)
        if answer is not None:
            response = answer(exchange)
            exchange.first_byte = time.monotonic()
            return response
        name = exchange.request.model
        exchange.model = self._models.get(name)
        if exchange.model is None:
            raise NotFound(f"the model '{name}' does not exist", code="model_not_found", param="model")
        exchange.targets = await first(self._route, exchange) or ()
        if not exchange.targets:
            raise NoTarget(f"no target can answer for model '{name}'")
        if exchange.provider_keys is not None:
            exchange.targets = _with_own_keys(exchange, exchange.provider_keys)
        cached: Response | None = await first(self._cache_lookup, exchange)
        response = cached or await self._attempts(exchange, exchange.targets[0])
        for begun in exchange.on_answer:
            begun(response)
        if response.stream is not None:
            response.stream.prepare(exchange.transforms, exchange.record_limit)
        exchange.first_byte = time.monotonic()
        return response

    async def _attempts(self, exchange: Exchange, target: Target) -> Response:
        left = self._max_attempts
        while True:
            left -= 1
            try:
                return await self.attempt(exchange, target, self._call)
            except ProviderError as error:
                following: Target | None = await first(self._on_error, exchange, target, error)
                if following is None or left <= 0:
                    raise
                target = following

    async def attempt(self, exchange: Exchange, target: Target, call: Hook, *, of: str = "") -> Response:
        """Call one target once, up to the first chunk; recorded on the exchange whatever becomes of it."""
        if exchange.provider_keys is not None:
            target = _with_own_key(exchange, target, exchange.provider_keys)
        attempt = Attempt(target, of=of)
        exchange.attempts.append(attempt)
        for begun in exchange.on_attempt:
            begun(attempt)
        response: Response | None = None
        try:
            with Limit(target.timeouts.first_byte) as limit:
                response = await first(call, exchange, target)
                if response is None:
                    raise NoTarget(f"no enabled plugin takes target '{target}'")
                if response.stream is not None:
                    await response.stream.prime()
        except BaseException as exc:
            attempt.ended = time.monotonic()
            if response is not None and response.stream is not None:
                await response.stream.aclose()
            if isinstance(exc, TimeoutError) and limit.expired:
                message = f"{target}: no answer within {target.timeouts.first_byte:g} s"
                attempt.error = ProviderError(message, kind=ErrorKind.TIMEOUT)
                raise attempt.error from exc
            if isinstance(exc, GatewayError):
                _hide_keys(exc, target)
                attempt.error = exc
            elif attempt.error is None:  # a plugin that has held it back may have said that it was never sent
                _abandon(exchange, attempt)
            raise
        if response.attempt is not None and any(response.attempt is other for other in exchange.attempts):
            # A plugin's own attempt (a hedge) has answered within this one, and nobody waits for this one any more.
            attempt.ended = time.monotonic()
            if attempt.error is None:
                _abandon(exchange, attempt)
            return response
        attempt.first_byte = time.monotonic()
        response.target = target
        response.attempt = attempt
        if response.stream is None:
            self._account(attempt, response)
        return response

    async def _settle(self, exchange: Exchange, response: Response | None, error: BaseException | None) -> None:
        if response is not None and response.stream is not None:
            await response.stream.aclose()
            self._account_stream(exchange, response, error)
        if not self._post_call:
            return
        try:
            with Limit(self._settle_timeout):
                await each_outward(self._post_call, exchange, response, error)
        except TimeoutError:
            _log.error("post_call took longer than %g s (request %s)", self._settle_timeout, exchange.id)

    def _account_stream(self, exchange: Exchange, response: Response, error: BaseException | None) -> None:
        stream = response.stream
        if stream is None:
            return
        reader = stream.reader
        response.usage = reader.usage
        response.finish_reason = reader.finish_reason
        response.model = reader.model or response.model
        if reader.usage is None and reader.events:
            # Cut off: nobody has counted. An event is about a token.
            response.usage = Usage(_estimated_input(exchange), reader.events, estimated=True)
        attempt = response.attempt
        if attempt is None or attempt.ended or response.cached is not None:
            return
        attempt.abandoned = error is not None and not isinstance(error, ProviderError)
        if isinstance(error, GatewayError) and not attempt.abandoned:
            attempt.error = error
        self._account(attempt, response)

    def _account(self, attempt: Attempt, response: Response) -> None:
        attempt.ended = time.monotonic()
        attempt.usage = response.usage
        price = attempt.target.price
        if price is not None and response.usage is not None:
            attempt.cost = response.cost = price.of(response.usage)


def _abandon(exchange: Exchange, attempt: Attempt) -> None:
    """Nobody waits for this attempt any more. The provider has the request, and bills what it read of it."""
    attempt.abandoned = True
    estimate = _estimated_input(exchange)
    if estimate:
        attempt.usage = Usage(estimate, estimated=True)
        if attempt.target.price is not None:
            attempt.cost = attempt.target.price.of(attempt.usage)


def _estimated_input(exchange: Exchange) -> int:
    estimate = exchange.facts.get("input_tokens_estimated", 0)
    return estimate if isinstance(estimate, int) else 0


def _hide_keys(error: GatewayError, target: Target) -> None:
    """A provider may quote the key that it was called with, and nobody is to read it: no client, no log."""
    called_with = [secret for secret in (target.api_key, *secrets_of_headers(target.headers)) if secret]
    if isinstance(error, ProviderError):
        message = _SECRETS.hide(error.message, called_with)
        if message != error.message:
            error.message = message
            error.args = (message,)


def _with_own_keys(exchange: Exchange, own: ProviderKeys) -> list[Target]:
    """The targets that may be called, with the client's keys; each once, as one key has taken the place of several."""
    targets = list(dict.fromkeys(keyed for target in exchange.targets if (keyed := own.on(target)) is not None))
    if not targets:
        raise Refused(
            f"model '{exchange.request.model}' is asked with a provider's key of your own, and there is none for it",
            code="provider_key_missing",
        )
    return targets


def _with_own_key(exchange: Exchange, target: Target, own: ProviderKeys) -> Target:
    keyed = own.on(target)
    if keyed is None:
        raise TargetUnavailable(f"{target}: the client calls with keys of its own only")
    exchange.facts["byok"] = own.covers(target)
    return keyed
