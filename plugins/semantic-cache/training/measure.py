"""Measures a look-up: embedding, search among so many entries, evidence and decision, on one core.

taskset -c 0 python training/measure.py [--entries 10000] [--rounds 300]
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
import time
from functools import lru_cache
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from generate import generate
from junctor_semantic_cache.controller import Namespace
from junctor_semantic_cache.embedders import LocalEmbedder
from junctor_semantic_cache.evidence import parse
from junctor_semantic_cache.models import load_model
from junctor_semantic_cache.scoring import best_candidate, load_weights
from junctor_semantic_cache.store import EdgeStore, Entry, entry_id

WHERE = {"scope": "s", "tenant": "t", "partition": "p"}


def resident() -> float:
    """Megabytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


async def measure(entries: int, rounds: int) -> None:
    start = resident()
    embedder, weights = LocalEmbedder(load_model("minilm")), load_weights()
    await embedder.embed("warm up the model with a text of some fifteen tokens, as questions have them")
    print(f"model: {resident() - start:.0f} MB resident")
    with tempfile.TemporaryDirectory() as folder:
        store = EdgeStore(Path(folder), collection="c", embedder=embedder.name, dimension=384, timeout=60.0)
        await store.open()
        before = resident()
        texts = [pair.one for pair in generate(400)]
        vectors = [await embedder.embed(text) for text in texts]
        chance = np.random.default_rng(1)
        for number in range(entries):
            base = vectors[number % len(vectors)] + 0.05 * chance.normal(size=384).astype(np.float32)
            text = f"{texts[number % len(texts)]} {number}"
            identity = entry_id("s", "t", "p", text)
            entry = Entry(identity, "s", "t", "p", "n", text, str(number), "x" * 600, expires=1e18)
            await store.put(entry, base / np.linalg.norm(base))
        print(f"{entries} entries: {resident() - before:.0f} MB resident")
        read = lru_cache(4096)(parse)
        namespace, spent = Namespace(weights.prior), []
        for number in range(rounds):
            question = f"How long does the number {number} bus from the old town to the airport usually take?"
            started = time.perf_counter()
            await store.get(entry_id("s", "t", "p", question))
            vector = await embedder.embed(question)
            found = await store.search(vector, where=WHERE, limit=8)
            scored = best_candidate(parse(question), found, weights, read=read)
            namespace.request()
            if scored is not None and scored.signals:
                namespace.judge(scored.signals)
            spent.append((time.perf_counter() - started) * 1000)
        print(f"look-up: p50 {np.percentile(spent, 50):.2f} ms, p95 {np.percentile(spent, 95):.2f} ms")
        await store.aclose()
    await embedder.aclose()


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--entries", type=int, default=10_000)
    options.add_argument("--rounds", type=int, default=300)
    chosen = options.parse_args()
    asyncio.run(measure(chosen.entries, chosen.rounds))
