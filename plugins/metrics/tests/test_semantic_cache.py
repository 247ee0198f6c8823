"""The figures of the semantic cache by namespace, on the real page."""

import asyncio
import json
import shutil
import subprocess

import numpy as np
import pytest
from junctor.testing import FakeProvider, require
from junctor_metrics import Metrics
from junctor_semantic_cache import SemanticCache

PRICED = [{"target": "fake/one", "price": {"input": 1000, "output": 1000}}]
TREE = json.dumps({"models": [{"name": "test", "targets": PRICED}]})


class OneVector:
    """Every text means the same."""

    name, dimension = "one-vector", 8

    def encode(self, texts):
        return np.tile(np.eye(1, self.dimension, dtype=np.float32), (len(texts), 1))

    def window(self, text):
        return len(text)


class Cache(SemanticCache):
    def __init__(self, settings, gateway):
        super().__init__(settings, gateway, load=lambda name: OneVector())


@pytest.fixture
def cached(gateway, tmp_path):
    """`async with cached({metrics}, {semantic cache}) as g`: both plugins under the names that they have in a file."""

    def run(metrics=None, **settings):
        given = {"store": {"path": str(tmp_path / "store"), "timeout": "5s"}, "lookup_timeout": "5s", **settings}
        # A model that needs no asset: the start waits for it.
        given |= {"namespace_header": "x-space", "judge": "first_line", "embedder": "fastembed:one-vector"}
        named = type("semantic_cache", (Cache,), {})
        return gateway((Metrics, metrics or {}), (named, given), FakeProvider(), config=TREE)

    return run


async def ask(g, text, space):
    """Ask, and wait until the answer is stored."""
    answer = await g.chat(text, headers={"x-space": space})
    await asyncio.wait_for(g.gateway.plugins.by_name["semantic_cache"].keeper.settled(), 10)
    return answer.headers["x-junctor-cache"]


async def test_each_namespace_has_its_figures(cached, scrape):
    async with cached() as g:
        for text in ("Why is tin soft?", "Why is tin soft?", "Why is jam sweet?"):
            await ask(g, text, "faq")
        await ask(g, "Why is tin soft?", "chat")
        figures = await scrape(g)
    name = "junctor_semantic_cache"
    assert figures[f"{name}_lookups_total", "faq"] == 3
    assert figures[f"{name}_lookups_total", "chat"] == 1
    assert figures[f"{name}_hits_total", "faq", "exact"] == 1
    assert figures[f"{name}_hits_total", "faq", "similar"] == 0
    assert figures[f"{name}_saved_dollars_total", "faq"] > 0
    assert figures[f"{name}_paid_dollars_total", "faq"] == 0
    assert figures[f"{name}_verifications_total", "faq", "wrong"] == 0
    assert 0 <= figures[f"{name}_wrong_ratio", "faq"] <= figures[f"{name}_wrong_bound_ratio", "faq"] <= 1


async def test_counters_begin_anew_with_the_process_though_the_cache_remembers(cached, scrape):
    for _ in range(2):
        async with cached() as g:
            await ask(g, "Why is tin soft?", "faq")
            assert (await scrape(g))["junctor_semantic_cache_lookups_total", "faq"] == 1


async def test_namespaces_beyond_the_cap_are_counted_together(cached, scrape):
    async with cached({"max_label_values": 2}) as g:
        for number in range(4):
            await ask(g, "Why is tin soft?", f"space-{number}")
        await scrape(g)
        figures = await scrape(g)
    counted = {key[1]: value for key, value in figures.items() if key[0] == "junctor_semantic_cache_lookups_total"}
    assert counted == {"space-0": 1, "space-1": 1, "other": 2}
    assert ("junctor_semantic_cache_wrong_ratio", "other") in figures


async def test_promtool_finds_no_fault(cached):
    promtool = shutil.which("promtool")
    require(promtool, "promtool is not installed (apt install prometheus)")
    async with cached() as g:
        await ask(g, "Why is tin soft?", "faq")
        body = (await g.request("GET", "/metrics")).body
    assert b'junctor_semantic_cache_wrong_bound_ratio{namespace="faq"}' in body
    checked = subprocess.run([promtool, "check", "metrics"], input=body, capture_output=True)
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")
