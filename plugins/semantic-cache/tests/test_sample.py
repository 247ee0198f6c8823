"""A sample of the scorer's protocol on pairs that the training script makes: cold, a tenant for each pair."""

import importlib.util
import sys
from pathlib import Path

from junctor_semantic_cache.bounds import mean_budget

_FILE = Path(__file__).parents[1] / "training" / "generate.py"
_spec = importlib.util.spec_from_file_location("generate_pairs", _FILE)
generate_pairs = sys.modules["generate_pairs"] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(generate_pairs)


async def test_generated_traffic_is_answered_within_the_limit(running, minilm, knows):
    provider, wrong, hits = knows(), 0, 0
    pairs = list(generate_pairs.generate(150, seed=99))
    async with running({"tenant_header": "x-tenant"}, provider=provider, load=lambda name: minilm) as g:
        for number, pair in enumerate(pairs):
            tenant = {"x-tenant": str(number)}
            provider.answers = {pair.one: f"answer {number}", pair.other: f"answer {number if pair.same else -number}"}
            await g.ask(pair.one, headers=tenant)
            answer = await g.ask(pair.other, headers=tenant)
            if answer.headers["x-junctor-cache"] == "semantic-hit":
                hits, wrong = hits + 1, wrong + (not pair.same)
        assert g.cache.namespaces["test"].spent <= mean_budget(300, 0.01)
    assert wrong <= 1
    assert hits >= 5
