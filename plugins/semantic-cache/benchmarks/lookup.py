"""Measures a look-up as its store grows: embedding, search, evidence and decision, on one core; prints JSON.

taskset -c 0 python benchmarks/lookup.py [--entries 1000 10000 100000] [--rounds 300]

Each size twice: entries spread over 2,000 partitions (tenants, system prompts, models: how traffic is), and all of them
in one. Times are in milliseconds, memory is what the process grew by, in megabytes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from generate import generate
from junctor_semantic_cache.controller import Namespace
from junctor_semantic_cache.edge_store import EdgeStore
from junctor_semantic_cache.embedders import LocalEmbedder
from junctor_semantic_cache.evidence import parse
from junctor_semantic_cache.models import load_model
from junctor_semantic_cache.scoring import best_candidate, load_weights
from junctor_semantic_cache.store import Entry, entry_id

_PARTITIONS = 2000
_NEIGHBOURS = 8


def resident() -> float:
    """Megabytes."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


async def fill(store: EdgeStore, embedder: LocalEmbedder, *, entries: int, partitions: int) -> None:
    """Put variations of generated questions, each partition in turn."""
    texts = [pair.one for pair in generate(1000)]
    vectors = [await embedder.embed(text) for text in texts]
    chance = np.random.default_rng(1)
    for number in range(entries):
        varied = vectors[number % len(vectors)] + 0.03 * chance.normal(size=embedder.dimension).astype(np.float32)
        text, place = f"{texts[number % len(texts)]} {number}", f"p{number % partitions}"
        entry = Entry(entry_id("s", "t", place, text), "s", "t", place, "n", text, str(number), "x" * 600, expires=1e18)
        await store.put(entry, varied / np.linalg.norm(varied))


async def look(store: EdgeStore, embedder: LocalEmbedder, *, rounds: int, partitions: int) -> dict[str, Any]:
    """Time `rounds` look-ups of questions that were never asked, in changing partitions."""
    read, weights = lru_cache(4096)(parse), load_weights()
    namespace, spent, searched = Namespace(weights.prior), [], []
    for number in range(rounds):
        question = f"How long does the number {number} bus from the old town to the airport take?"
        place = f"p{number % partitions}"
        started = time.perf_counter()
        await store.get(entry_id("s", "t", place, question))
        vector = await embedder.embed(question)
        before = time.perf_counter()
        where = {"scope": "s", "tenant": "t", "partition": place}
        found = await store.search(vector, where=where, limit=_NEIGHBOURS)
        searched.append(time.perf_counter() - before)
        scored = best_candidate(parse(question), found, weights, read=read) if found else None
        namespace.request()
        if scored is not None and scored.signals:
            namespace.judge(scored.signals)
        spent.append(time.perf_counter() - started)
    return {"lookup_ms": _percentiles(spent), "search_ms": _percentiles(searched)}


def _percentiles(seconds: list[float]) -> dict[str, float]:
    p50, p95 = np.percentile(np.array(seconds) * 1000, [50, 95])
    return {"p50": round(float(p50), 2), "p95": round(float(p95), 2)}


async def measure(entries: int, *, partitions: int, rounds: int, embedder: LocalEmbedder) -> dict[str, Any]:
    """One row of the output."""
    with tempfile.TemporaryDirectory() as folder:
        names = {"collection": "c", "embedder": embedder.name}
        store = EdgeStore(Path(folder), dimension=embedder.dimension, timeout=60.0, **names)
        await store.open()
        before = resident()
        await fill(store, embedder, entries=entries, partitions=partitions)
        grown = round(resident() - before)
        row = {"entries": entries, "partitions": partitions, "memory_mb": grown}
        row |= await look(store, embedder, rounds=rounds, partitions=partitions)
        await store.aclose()
        return row


async def run(sizes: list[int], rounds: int) -> None:
    rows = []
    embedder = LocalEmbedder(load_model("minilm"), cached=1)  # each question is embedded
    for partitions in (_PARTITIONS, 1):
        for entries in sizes:
            row = await measure(entries, partitions=min(partitions, entries), rounds=rounds, embedder=embedder)
            rows.append(row)
            print(json.dumps(row), file=sys.stderr)
    await embedder.aclose()
    cores = len(os.sched_getaffinity(0))
    print(json.dumps({"machine": platform.machine(), "cores": cores, "rows": rows}, indent=1))


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--entries", type=int, nargs="+", default=[1000, 10_000, 100_000])
    options.add_argument("--rounds", type=int, default=300)
    chosen = options.parse_args()
    asyncio.run(run(chosen.entries, chosen.rounds))
