"""The hooks: looks up before the call, hands on what came after it, says on the exchange and in headers what it did."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Any, Self

from junctor import hookimpl
from junctor.assets import cache_folder
from junctor.errors import GatewayError, JunctorError

from junctor_semantic_cache import admin
from junctor_semantic_cache.embedders import GatewayEmbedder, LocalEmbedder
from junctor_semantic_cache.engine import Engine, Lookup
from junctor_semantic_cache.evidence import normalise
from junctor_semantic_cache.judges import make_judge
from junctor_semantic_cache.keeper import Keeper
from junctor_semantic_cache.models import load_model, needed_assets
from junctor_semantic_cache.namespaces import Namespaces
from junctor_semantic_cache.partition import Unfit, namespace_of, read_question
from junctor_semantic_cache.purges import Purges
from junctor_semantic_cache.scoring import load_weights
from junctor_semantic_cache.serving import make_response
from junctor_semantic_cache.settings import SemanticCacheSettings
from junctor_semantic_cache.store import entry_id
from junctor_semantic_cache.stores import make_store
from junctor_semantic_cache.verifiers import make_verifier

if TYPE_CHECKING:
    import argparse
    import random
    from collections.abc import Callable, Iterable

    from junctor import Exchange, Gateway, Response
    from junctor.assets import Asset
    from starlette.routing import BaseRoute

    from junctor_semantic_cache.embedders import Embedder
    from junctor_semantic_cache.models import SentenceModel
    from junctor_semantic_cache.partition import Question

__all__ = ["SemanticCache"]

_log = logging.getLogger("junctor.semantic_cache")
_STATE = "semantic_cache"
_OWN = frozenset({"embedding", "judge", "verify"})  # purposes of the exchanges that this plugin begins
_READY = 10.0  # seconds that the start waits for a model that is already on this machine
_RETRY = 30.0  # seconds between two attempts to get model and store
_DRAIN = 5.0  # seconds that closing waits for what is queued


class SemanticCache:
    """Answers a question that was answered in other words, within a stated share of wrong answers.

    Until model and store are there, and whenever one of them fails, requests pass by and the reason is said. `ready` is
    set once they are; `load` makes a sentence model from the configured name, in a thread; `chance` draws what is
    verified.
    """

    Settings = SemanticCacheSettings
    stage = "remember"

    def __init__(
        self,
        settings: SemanticCacheSettings,
        gateway: Gateway,
        *,
        load: Callable[[str], SentenceModel] = load_model,
        chance: random.Random | None = None,
    ) -> None:
        self._settings = settings
        self._load = load
        self._chance = chance
        self.gateway = gateway
        self._weights = load_weights()
        self._folder = settings.store.path or cache_folder() / "semantic-cache"
        self.namespaces = Namespaces(settings, self._weights.prior, self._folder / "learned")
        state = gateway.state if gateway.state.shared else None
        self.purges = Purges(self._folder / "purges", state, own_shard=settings.store.url is None)
        self.keeper = Keeper(settings, gateway, self.namespaces)
        self.engine: Engine | None = None
        self.trouble = "not ready yet"
        self.ready = asyncio.Event()
        self._tried = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Self:
        if self._settings.mode == "off" and not self._settings.namespaces:
            self.trouble = "off"
            return self
        await asyncio.to_thread(self.namespaces.load)
        self._tasks = [asyncio.create_task(self._prepare())]
        if not needed_assets(self._settings.embedder) and not self._settings.embedder.startswith("gateway:"):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._tried.wait(), _READY)
        return self

    async def __aexit__(self, *exc: object) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.keeper.settled(), _DRAIN)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        engine, self.engine = self.engine, None
        if engine is not None:
            await engine.embedder.aclose()
            await engine.store.aclose()
            if engine.verifier is not None:
                await engine.verifier.aclose()
            try:
                await asyncio.to_thread(self.namespaces.save, self.namespaces.changed())
            except OSError as error:
                _log.warning("semantic cache: what was learned is not saved: %s", error)

    async def _prepare(self) -> None:
        """Get model and store, again and again until they are there."""
        while True:
            try:
                engine = self.engine = await self._build()
                work = (self.purges.follow(engine.store), *self.keeper.work(engine))
                self._tasks += [asyncio.create_task(part) for part in work]
                self.ready.set()
                self._tried.set()
                return
            except (JunctorError, OSError) as error:
                self.trouble = str(error).splitlines()[0]
                _log.warning("semantic cache: requests pass by: %s", error)
            except Exception:  # a model's runtime may raise anything
                self.trouble = "model or store failed to open"
                _log.exception("semantic cache: requests pass by")
            self._tried.set()
            await asyncio.sleep(_RETRY)

    async def _build(self) -> Engine:
        embedder = await self.open_embedder()
        store = make_store(self._settings.store, self._folder / "vectors", embedder)
        try:
            await store.open()
            await self.purges.open(store)
            section = self._settings.verifier
            verifier = make_verifier(section, gateway=self.gateway) if section is not None else None
        except BaseException:
            await embedder.aclose()
            await store.aclose()
            raise
        judge = make_judge(self._settings.judge, gateway=self.gateway, embedder=embedder)
        return Engine(
            self._settings,
            self._weights,
            self.namespaces,
            embedder=embedder,
            store=store,
            judge=judge,
            purges=self.purges,
            verifier=verifier,
            chance=self._chance,
        )

    async def open_embedder(self) -> Embedder:
        """The configured embedder, its model loaded."""
        name = self._settings.embedder
        if name.startswith("gateway:"):
            return await GatewayEmbedder.open(self.gateway, name.removeprefix("gateway:"))
        return LocalEmbedder(await asyncio.to_thread(self._load, name))

    @hookimpl
    async def cache_lookup(self, exchange: Exchange) -> Response | None:
        if exchange.request.operation != "chat" or exchange.purpose:
            return None
        if self.namespaces.mode(namespace_of(exchange, self._settings)) == "off":
            return None
        found = await self._find(exchange)
        if isinstance(found, str):
            exchange.headers.setdefault("x-junctor-cache", "bypass")
            exchange.facts["semantic_cache"] = {"outcome": "bypass", "why": found}
            return None
        self._remember(exchange, found)
        self._say(exchange, found)
        return make_response(exchange, found) if found.outcome in ("hit", "exact") else None

    async def _find(self, exchange: Exchange) -> Lookup | str:
        """Look the request up, or say why it passes by."""
        engine, control = self.engine, exchange.request.headers.get("cache-control", "")
        if "no-store" in control:
            return "the client asked for it"
        if engine is None:
            return self.trouble
        embedder = engine.embedder
        try:
            question = read_question(exchange, self._settings, embedder=embedder.name, window=embedder.window)
        except Unfit as unfit:
            return str(unfit)
        if "no-cache" in control:
            return _unasked(question)
        return await self._look(engine, exchange, question)

    async def _look(self, engine: Engine, exchange: Exchange, question: Question) -> Lookup | str:
        """Look up within the limit of time; what went wrong is said in words."""
        try:
            async with asyncio.timeout(self._settings.lookup_timeout):
                return await engine.look(
                    exchange, question, serving=self.namespaces.mode(question.namespace) == "serve"
                )
        except TimeoutError:
            return f"no result within {self._settings.lookup_timeout:g} s"
        except (JunctorError, GatewayError) as error:
            return f"{type(error).__name__}: {error}"

    def _remember(self, exchange: Exchange, found: Lookup) -> None:
        headers = exchange.request.headers
        given = headers.get("x-junctor-cache-ttl", "")
        found.ttl = float(given) if given.isdigit() else None
        exchange.state[_STATE] = found
        if found.outcome not in ("hit", "exact") and exchange.request.stream:
            exchange.record(4 * self._settings.max_answer)  # events repeat their frame for every piece

    def _say(self, exchange: Exchange, found: Lookup) -> None:
        namespace = found.question.namespace
        exchange.facts["semantic_cache"] = {
            "outcome": found.outcome,
            "why": found.why,
            "namespace": namespace,
            "candidate": found.scored.candidate.entry.id if found.scored else found.entry.id if found.entry else None,
            **found.facts,
        }
        if found.outcome not in ("hit", "exact"):
            exchange.headers.setdefault("x-junctor-cache", found.outcome if found.outcome == "bypass" else "miss")

    @hookimpl
    async def post_call(self, exchange: Exchange, response: Response | None, error: BaseException | None) -> None:
        if exchange.purpose:
            self._pay(exchange)
            return
        found: Lookup | None = exchange.state.pop(_STATE, None)
        if found is None or self.engine is None:
            return
        if found.outcome in ("hit", "exact"):
            self.keeper.served(exchange, found)
        elif response is not None and error is None and response.cached is None:
            self.keeper.answered(exchange, found, response)

    def _pay(self, exchange: Exchange) -> None:
        """Charge what the cache itself asks of a provider to the namespace it is asked for, whatever came of it."""
        if exchange.purpose in _OWN and exchange.parent is not None and exchange.cost is not None:
            namespace = self.namespaces[namespace_of(exchange.parent, self._settings)]
            namespace.paid += exchange.cost.total
            namespace.dirty = True

    @hookimpl
    def assets(self) -> Iterable[Asset]:
        return needed_assets(self._settings.embedder)

    @hookimpl
    def check(self) -> Iterable[str]:
        """Models that the section names are to be in the file, and files where it says."""
        judge, embedder, verifier = self._settings.judge, self._settings.embedder, self._settings.verifier
        named = {
            "judge": judge.removeprefix("model:") if judge.startswith("model:") else None,
            "embedder": embedder.removeprefix("gateway:") if embedder.startswith("gateway:") else None,
            "verifier.model": verifier.model if verifier else None,
        }
        if verifier and verifier.onnx and not verifier.onnx.expanduser().is_file():
            yield f"verifier.onnx: {verifier.onnx} is no file"
        for place, model in named.items():
            if model and (problem := self.gateway.unknown_model(model)):
                yield f"{place}: {problem}"

    @hookimpl
    def http_routes(self) -> Iterable[BaseRoute]:
        return admin.routes(self)

    @staticmethod
    @hookimpl
    def cli_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
        admin.add_commands(commands)

    def stats(self) -> dict[str, dict[str, Any]]:
        """`Namespaces.stats`, for whoever shows figures."""
        return self.namespaces.stats()

    def shadowed(self) -> SemanticCacheSettings:
        """The settings of one that learns and serves nothing."""
        return self._settings.model_copy(update={"mode": "shadow", "verifier": None})


def _unasked(question: Question) -> Lookup:
    """A request that is not looked up but whose answer is kept."""
    identity = entry_id(question.scope, question.tenant, question.partition, normalise(question.text))
    return Lookup(question, identity, outcome="bypass", why="the client asked for it")
