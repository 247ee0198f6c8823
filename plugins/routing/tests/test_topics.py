"""Routing by example utterances, with the semantic cache's embedder."""

import asyncio
import importlib.util
import json

import pytest
from junctor import ConfigError, Gateway, config, hookimpl
from junctor.testing import require

np = pytest.importorskip("numpy")
if importlib.util.find_spec("junctor_semantic_cache") is None:
    pytest.skip("the semantic cache is not installed", allow_module_level=True)

MODELS = [
    {"name": "test", "targets": [{"target": "fake/one"}]},
    {"name": "desk", "targets": [{"target": "fake/desk"}]},
]
SETTINGS = {
    "topics": {
        "refunds": {"examples": ["I want my money back", "refund my order"], "threshold": 0.7},
        "weather": {"examples": ["will it rain tomorrow"], "threshold": 0.7},
    },
    "rules": [{"name": "money", "when": {"topic": "refunds", "stream": False}, "use": {"model": "desk"}}],
}


class Letters:
    """An embedder in which texts with the same letters are alike."""

    def __init__(self, delay=0.0, error=None):
        self.delay, self.error, self.texts = delay, error, []

    async def embed(self, text, *, parent=None):
        self.texts.append(text)
        if parent is not None:
            await asyncio.sleep(self.delay)
            if self.error:
                raise self.error
        vector = np.array([text.lower().count(c) for c in "abcdefghijklmnopqrstuvwxyz"], np.float32)
        return vector / np.linalg.norm(vector)

    async def aclose(self):
        pass


class SemanticCache:
    """Stands where the cache's plugin stands: its engine has the embedder."""

    def __init__(self, embedder):
        self.engine = type("Engine", (), {"embedder": embedder})()

    @hookimpl
    async def pre_route(self, exchange):
        pass


@pytest.fixture
def topical(routed):
    from contextlib import asynccontextmanager

    @asynccontextmanager
    async def run(embedder, settings=SETTINGS):
        plugin = SemanticCache(embedder)
        async with routed(settings, MODELS, plugins=[plugin]) as (g, provider, recorder):
            g.gateway.plugins.by_name["semantic_cache"] = plugin  # the name that the YAML gives it
            await asyncio.wait_for(g.gateway.plugins.by_name["routing"]._topics.ready.wait(), 10)
            yield g, provider, recorder

    return run


async def test_a_request_like_an_example_takes_its_rule(topical):
    async with topical(Letters()) as (g, provider, recorder):
        await g.chat("I want the money back")
        await g.chat("zzz")
    assert [name for name, _ in provider.calls] == ["fake/desk", "fake/one"]
    first, second = (exchange.facts["route"]["topic"] for exchange, _, _ in recorder.ended)
    assert (first["name"], first["nearest"]) == ("refunds", "refunds")
    assert second["name"] is None


async def test_the_embedder_is_asked_only_when_the_rest_of_the_rule_holds(topical):
    embedder = Letters()
    async with topical(embedder) as (g, *_):
        examples = len(embedder.texts)
        await g.chat("refund my order", stream=True)
    assert len(embedder.texts) == examples == 3


@pytest.mark.parametrize("embedder", [Letters(delay=5.0), Letters(error=RuntimeError("no"))], ids=["slow", "broken"])
async def test_an_embedder_that_fails_costs_the_topic_not_the_answer(topical, embedder):
    async with topical(embedder) as (g, provider, recorder):
        answer = await g.chat("refund my order")
    assert answer.status == 200
    assert provider.calls[0][0] == "fake/one"
    assert "embedder" in recorder.last.facts["route"]["topic"]["reason"]


async def test_the_real_model_tells_topics_apart(routed):
    from junctor.errors import AssetError
    from junctor_semantic_cache.models import load_model

    try:
        await asyncio.to_thread(load_model, "minilm")
    except (AssetError, OSError) as error:
        require(None, f"the embedding model cannot be had: {error}")
    settings = {**SETTINGS, "topic_timeout": "5s"}
    settings["topics"] = {name: {**topic, "threshold": 0.5} for name, topic in SETTINGS["topics"].items()}
    async with routed(settings, MODELS) as (g, provider, _):
        await asyncio.wait_for(g.gateway.plugins.by_name["routing"]._topics.ready.wait(), 60)
        await g.chat("please give me a refund for what I ordered")
        await g.chat("does it look like rain today?")
    assert [name for name, _ in provider.calls] == ["fake/desk", "fake/one"]


def test_without_the_semantic_cache_installed_topics_are_a_clear_mistake(monkeypatch):
    find = importlib.util.find_spec
    hidden = "junctor_semantic_cache"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *a: None if name == hidden else find(name, *a))
    tree = {"models": MODELS, "plugins": [{"routing": SETTINGS}]}
    with pytest.raises(ConfigError) as caught:
        Gateway(config.parse(json.dumps(tree)))
    assert any("`pip install junctor-semantic-cache`" in problem for problem in caught.value.problems)
