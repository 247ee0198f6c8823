"""What follows an answer, beside the requests: it is kept and learned from, hits are checked, and all that is saved."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from junctor import Usage
from junctor.errors import JunctorError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from junctor import Exchange, Gateway, Response

    from junctor_semantic_cache.engine import Engine, Lookup
    from junctor_semantic_cache.namespaces import Namespaces
    from junctor_semantic_cache.settings import SemanticCacheSettings

__all__ = ["Keeper"]

_log = logging.getLogger("junctor.semantic_cache")
_COMPLETE = frozenset({"stop", "end_turn", "stop_sequence"})
_CALLS = frozenset({"tool_calls", "tool_use", "function_call"})
_VERIFYING = 64  # verifications that may wait; more are left out
_SAVE = 60.0  # seconds between two savings of what was learned


class Keeper:
    """Is told of answers and hits, and goes through them in its own time.

    `dropped` counts what came to nothing: a queue was full, or the store failed.
    """

    def __init__(self, settings: SemanticCacheSettings, gateway: Gateway, namespaces: Namespaces) -> None:
        self._settings = settings
        self._gateway = gateway
        self._namespaces = namespaces
        self._answers: asyncio.Queue[tuple[Exchange, Lookup, bytes, dict[str, Any]]] = asyncio.Queue(settings.queue)
        self._checks: asyncio.Queue[tuple[Exchange, Lookup]] = asyncio.Queue(_VERIFYING)
        self.dropped = 0

    def work(self, engine: Engine) -> Iterable[Coroutine[Any, Any, None]]:
        """What is to run, each in a task of its own, until it is cancelled."""
        return self._keep_answers(engine), self._check_hits(engine), self._save(engine)

    def answered(self, exchange: Exchange, found: Lookup, response: Response) -> None:
        """The provider has answered what the look-up could not."""
        body = self._complete(exchange, response)
        if body is not None:
            self._queue(self._answers, (exchange, found, body, _fresh(exchange, response)))

    def served(self, exchange: Exchange, found: Lookup) -> None:
        """The look-up has answered."""
        self._queue(self._answers, (exchange, found, b"", {}))
        if found.verify and exchange.request.wire.name == "openai":
            self._queue(self._checks, (exchange, found))

    async def settled(self) -> None:
        """Wait until all answers so far are stored and learned from."""
        await self._answers.join()

    def _queue(self, queue: asyncio.Queue[Any], item: Any) -> None:
        try:
            queue.put_nowait(item)
        except asyncio.QueueFull:
            self.dropped += 1

    def _complete(self, exchange: Exchange, response: Response) -> bytes | None:
        """The whole answer if it may be kept: complete, not filtered, not too large."""
        allowed = _COMPLETE | _CALLS if self._settings.tool_calls else _COMPLETE
        if response.status != 200 or response.finish_reason not in allowed:
            return None
        body = response.body
        if response.stream is not None:
            events = response.stream.recorded
            if not events:
                return None
            body = exchange.request.wire.to_whole(exchange.request, events)
        return body if 0 < len(body) <= self._settings.max_answer else None

    async def _keep_answers(self, engine: Engine) -> None:
        """The owner of all that is stored and learned from answers."""
        while True:
            exchange, found, body, fresh = await self._answers.get()
            try:
                if body:
                    await engine.store_answer(exchange, found, body, fresh=fresh)
                elif found.entry is not None:
                    await engine.touch(found.entry)
            except (JunctorError, OSError) as error:
                self.dropped += 1
                _log.warning("semantic cache: an answer is not kept: %s", error)
            except Exception:  # a fault here must not end the worker
                self.dropped += 1
                _log.exception("semantic cache: an answer is not kept")
            finally:
                self._answers.task_done()

    async def _check_hits(self, engine: Engine) -> None:
        """Ask the provider again for some of the hits, and learn from its answer."""
        while True:
            exchange, found = await self._checks.get()
            try:
                body = {k: v for k, v in exchange.request.body.items() if k not in ("stream", "stream_options")}
                response = await self._gateway.ask("chat", body, purpose="verify", parent=exchange, timeout=120.0)
                if response.finish_reason in _COMPLETE:
                    fresh = _fresh(exchange, response)
                    fresh["cost"] = response.cost.total if response.cost else 0
                    await engine.check_hit(exchange, found, response.body, fresh=fresh)
            except JunctorError as error:
                _log.info("semantic cache: a hit was not verified: %s", error)
            except Exception:  # a fault here must not end the worker
                _log.exception("semantic cache: a hit was not verified")

    async def _save(self, engine: Engine) -> None:
        while True:
            await asyncio.sleep(_SAVE)
            try:
                await asyncio.to_thread(self._namespaces.save, self._namespaces.changed())
                await engine.sweep()
            except (JunctorError, OSError) as error:
                _log.warning("semantic cache: what was learned is not saved: %s", error)


def _fresh(exchange: Exchange, response: Response) -> dict[str, Any]:
    """What an entry holds of the answer beside its text."""
    cost, usage = exchange.cost, response.usage or Usage()
    tags = [tag.strip() for tag in exchange.request.headers.get("x-junctor-cache-tags", "").split(",")]
    return {
        "cost": cost.total if cost is not None else 0,
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "tags": tuple(tag for tag in tags if tag)[:32],
    }
