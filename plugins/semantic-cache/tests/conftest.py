"""A small model of words, a provider that knows answers, and a gateway with the cache between them."""

from __future__ import annotations

import asyncio
import hashlib
import importlib.util
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from junctor.errors import AssetError
from junctor.testing import FakeProvider, Recorder, require
from junctor_semantic_cache import SemanticCache
from junctor_semantic_cache.models import load_model

_spec = importlib.util.spec_from_file_location("fake_qdrant", Path(__file__).with_name("fake_qdrant.py"))
fake_qdrant = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fake_qdrant)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


class WordsModel:
    """A text is the sum of its words' random vectors: equal words, equal vectors. No files."""

    name = "words"
    dimension = 64

    def encode(self, texts: Sequence[str]) -> Any:
        rows = []
        for text in texts:
            row = np.zeros(self.dimension, np.float32)
            for word in text.lower().replace("?", "").split():
                seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=4).digest(), "big")
                row += np.random.default_rng(seed).normal(size=self.dimension).astype(np.float32)
            rows.append(row / max(float(np.linalg.norm(row)), 1e-9))
        return np.stack(rows)

    def window(self, text: str) -> int:
        return min(len(text), 200)


class Knows(FakeProvider):
    """Answers each question by what it was told; the second line is a count, so that no two answers are equal.

    As the model `judge` it says `verdict`.
    """

    def __init__(self, answers: dict[str, str] | None = None, *, verdict: str = "yes", **fields: Any) -> None:
        super().__init__(**fields)
        self.answers = answers or {}
        self.verdict = verdict

    def _answer(self, exchange: Any, text: str) -> Any:
        if exchange.request.operation == "embeddings":
            return super()._answer(exchange, text)
        if exchange.request.model == "judge":
            return super()._answer(exchange, self.verdict)
        content = exchange.request.body["messages"][-1]["content"]
        question = content if isinstance(content, str) else content[0]["text"]
        return super()._answer(exchange, f"{self.answers.get(question, question)}\ncall {len(self.calls)}")


@dataclass
class Setup:
    """What a test holds in its hands."""

    harness: Any
    cache: SemanticCache
    provider: Any
    recorder: Recorder

    async def ask(self, text: str, **fields: Any) -> Any:
        """Ask, and wait until the answer is stored and learned from."""
        answer = await self.harness.chat(text, **fields)
        await self.settle()
        return answer

    @property
    def purposes(self) -> list[str]:
        """Of the exchanges that the cache began itself."""
        return [e.purpose for e, _, _ in self.recorder.ended if e.purpose]

    async def settle(self) -> None:
        await asyncio.wait_for(self.cache.keeper.settled(), 10)

    @property
    def fact(self) -> dict[str, Any]:
        """What the cache said of the last request of a client."""
        exchanges = [e for e, _, _ in self.recorder.ended if not e.purpose]
        return exchanges[-1].facts["semantic_cache"]


@pytest.fixture
def running(gateway: Callable[..., Any], tmp_path: Any) -> Callable[..., Any]:
    """`async with running({settings}, provider=…, load=…) as setup`: the cache, ready unless `wait` is False."""

    @asynccontextmanager
    async def run(
        settings: dict[str, Any] | None = None,
        *,
        provider: Any = None,
        load: Any = lambda name: WordsModel(),
        wait: bool = True,
        chance: Any = None,
        **more: Any,
    ) -> AsyncIterator[Setup]:
        class Cache(SemanticCache):
            def __init__(self, settings: Any, gateway: Any) -> None:
                super().__init__(settings, gateway, load=load, chance=chance)

        given = {
            "judge": "first_line",
            "store": {"path": str(tmp_path / "store"), "timeout": "5s"},
            "lookup_timeout": "5s",
        }
        provider, recorder = provider or Knows(), Recorder()
        async with gateway(recorder, (Cache, given | (settings or {})), provider, **more) as harness:
            cache = harness.gateway.plugins.by_name["cache"]
            if wait:
                await asyncio.wait_for(cache.ready.wait(), 10)
            yield Setup(harness, cache, provider, recorder)

    return run


@pytest.fixture
def knows() -> type[Knows]:
    return Knows


@pytest.fixture
def words() -> WordsModel:
    return WordsModel()


@pytest.fixture
def fake() -> Any:
    """A Qdrant server of the test's own."""
    server = fake_qdrant.FakeQdrant()
    yield server
    server.close()


@pytest.fixture(scope="session")
def minilm() -> Any:
    """The real model, made from its wheel if need be; without it the test is skipped."""
    try:
        return load_model("minilm")
    except AssetError as error:
        require(False, str(error))
