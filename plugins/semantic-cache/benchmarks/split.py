"""Split a replay file in two, one half to warm up with and one to score: other traffic, not other wordings of the same.

    python plugins/semantic-cache/benchmarks/split.py DATA.jsonl WARM.jsonl SCORED.jsonl [--draw a] [--swap]

Within a scenario that has tenants, a tenant falls into one half. Within one that has a single tenant, questions whose
vectors are within 0.8 of each other do, with all of their class; where more than half of them hang together like this,
the earlier half is to warm up with. `--draw` is any word: another word, another draw.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from junctor_semantic_cache.embedders import LocalEmbedder
from junctor_semantic_cache.models import load_model

_NEAR = 0.8

Record = dict[str, Any]


def _text(record: Record) -> str:
    content = record["messages"][-1]["content"]
    return content if isinstance(content, str) else json.dumps(content)


class _Groups(dict[str, str]):
    """What hangs together, by its representative (union-find)."""

    def __missing__(self, name: str) -> str:
        return name

    def find(self, name: str) -> str:
        while self[name] != name:
            name = self[name]
        return name

    def join(self, one: str, other: str) -> None:
        self[self.find(one)] = self.find(other)


async def _by_meaning(records: list[Record]) -> list[str]:
    """The group of each record."""
    embedder = LocalEmbedder(load_model("minilm"))
    vectors = np.array([await embedder.embed(_text(record), parent=None) for record in records])
    await embedder.aclose()
    groups = _Groups()
    for start in range(0, len(vectors), 500):
        for one, other in zip(*np.nonzero(vectors[start : start + 500] @ vectors.T >= _NEAR), strict=True):
            groups.join(records[start + one]["class"], records[other]["class"])
    return [groups.find(record["class"]) for record in records]


def _halves(records: list[Record], draw: str) -> list[int]:
    """0 or 1 for each record of a scenario."""
    if len({record["tenant"] for record in records}) > 1:
        groups = [record["tenant"] for record in records]
    else:
        groups = asyncio.run(_by_meaning(records))
        if max(Counter(groups).values()) > len(groups) / 2:
            return [int(place >= len(groups) / 2) for place in range(len(groups))]
    return [hashlib.sha256(f"{draw} {group}".encode()).digest()[0] % 2 for group in groups]


def main() -> None:
    """Read, split, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("warm", type=Path)
    parser.add_argument("scored", type=Path)
    parser.add_argument("--draw", default="a")
    parser.add_argument("--swap", action="store_true", help="the other half to warm up with")
    args = parser.parse_args()
    scenarios: dict[str, list[Record]] = defaultdict(list)
    for line in args.data.read_text().splitlines():
        record = json.loads(line)
        scenarios[record["scenario"]].append(record)
    halves: tuple[list[Record], list[Record]] = ([], [])
    for records in scenarios.values():
        for record, half in zip(records, _halves(records, args.draw), strict=True):
            halves[half ^ args.swap].append(record)
    for path, half_of_all in zip((args.warm, args.scored), halves, strict=True):
        path.write_text("".join(json.dumps(record) + "\n" for record in half_of_all))


if __name__ == "__main__":
    main()
