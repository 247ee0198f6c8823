"""Writes `weights.json`: a logistic model on generated pairs, with the sign of every weight fixed beforehand.

    python training/train.py [--pairs 12000] [--check DATA.jsonl]

`--check` prints, for a file in the scorer's format, how the weights would order each scenario's candidates; nothing is
learned from it. Needs the MiniLM model (`junctor assets fetch minilm-l6`), takes about a minute on one core.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from generate import generate
from junctor_semantic_cache.evidence import FEATURES, compare, parse, veto
from junctor_semantic_cache.models import load_model

if TYPE_CHECKING:
    from collections.abc import Iterable

FOR_A_HIT = {"cosine", "near", "overlap", "clean"}  # all others can only speak against one
L2 = 0.1
# Where a namespace's own learning starts, and how far it may easily go. The last three are not in the generated pairs:
# a small share of what a margin, company or a good record are worth where they were seen.
PRIOR = {
    "bias": (0.0, 2.0),
    "similarity": (1.0, 1.0),
    "near": (1.0, 1.0),
    "clean": (1.0, 0.5),
    "evidence": (1.0, 1.0),
    "margin": (0.1, 0.5),
    "support": (0.1, 1.0),
    "record": (0.1, 0.5),
}
PRIOR_WORTH = 10.0


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--pairs", type=int, default=12_000)
    options.add_argument("--check", type=Path)
    chosen = options.parse_args()
    model = load_model("minilm")
    pairs = [(pair.one, pair.other, pair.same) for pair in generate(chosen.pairs)]
    x, y = examples(pairs, model)
    intercept, weights = fit(x, y)
    place = Path(__file__).parents[1] / "src" / "junctor_semantic_cache" / "weights.json"
    place.write_text(json.dumps(_document(intercept, weights), indent=1) + "\n")
    print(f"{len(y)} pairs, {y.mean():.0%} right; wrote {place.name}")
    if chosen.check:
        check(chosen.check, model, intercept, weights)


def examples(pairs: Iterable[tuple[str, str, bool]], model: Any) -> tuple[np.ndarray, np.ndarray]:
    """Features and labels of those pairs that no veto decides."""
    vectors: dict[str, np.ndarray] = {}

    def vector(text: str) -> np.ndarray:
        if text not in vectors:
            vectors[text] = model.encode([text])[0]
        return vectors[text]

    rows, labels = [], []
    for one, other, same in pairs:
        first, second = parse(one), parse(other)
        if veto(first, second) is None:
            rows.append(compare(first, second, float(vector(one) @ vector(other))))
            labels.append(float(same))
    return np.array(rows), np.array(labels)


def fit(x: np.ndarray, y: np.ndarray, *, rounds: int = 6000) -> tuple[float, np.ndarray]:
    """Accelerated projected gradient; each weight keeps its sign or is 0."""
    mean, spread = x.mean(axis=0), x.std(axis=0) + 1e-6
    z = np.c_[np.ones(len(x)), (x - mean) / spread]
    sign = np.array([0] + [1 if name in FOR_A_HIT else -1 for name in FEATURES])
    ridge = np.full(z.shape[1], L2)
    ridge[0] = 0.0
    step = 1.0 / (np.linalg.norm(z.T @ z, 2) / 4 + L2)
    weights = ahead = np.zeros(z.shape[1])
    momentum = 1.0
    for _ in range(rounds):
        gradient = z.T @ (1 / (1 + np.exp(-z @ ahead)) - y) + ridge * ahead
        new = ahead - step * gradient
        new = np.where((sign > 0) & (new < 0) | (sign < 0) & (new > 0), 0.0, new)
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = new + (momentum - 1) / following * (new - weights)
        weights, momentum = new, following
    slopes = weights[1:] / spread
    return float(weights[0] - slopes @ mean), slopes


def _document(intercept: float, weights: np.ndarray) -> dict[str, Any]:
    return {
        "about": "written by training/train.py from generated pairs",
        "intercept": round(intercept, 5),
        "features": {name: round(float(w), 5) for name, w in zip(FEATURES, weights, strict=True)},
        "prior": {name: {"mean": mean, "deviation": deviation} for name, (mean, deviation) in PRIOR.items()},
        "prior_worth": PRIOR_WORTH,
    }


def check(file: Path, model: Any, intercept: float, weights: np.ndarray) -> None:
    """For each scenario: the share of right nearest entries that rank above all but so many wrong ones."""
    scenarios: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in file.read_text().splitlines():
        record = json.loads(line)
        scenarios[record["scenario"]].append(record)
    for name, records in scenarios.items():
        scored = _nearest(records, model, intercept, weights)
        order = np.argsort([-score for score, _ in scored])
        right = np.array([same for _, same in scored])[order]
        wrong = np.cumsum(~right)
        total = max(1, int(right.sum()))
        shares = [int(right[wrong <= share * len(records)].sum()) / total for share in (0.002, 0.005, 0.01)]
        print(f"{name:10} right ones ranked above 0.2 / 0.5 / 1 % wrong: " + " / ".join(f"{s:.0%}" for s in shares))


def _nearest(
    records: list[dict[str, Any]], model: Any, intercept: float, weights: np.ndarray
) -> list[tuple[float, bool]]:
    before: dict[str, list[tuple[np.ndarray, str, str]]] = defaultdict(list)
    scored = []
    for record in records:
        text = record["messages"][-1]["content"]
        if not isinstance(text, str):
            continue
        vector, tenant = model.encode([text])[0], record["tenant"]
        if before[tenant]:
            near, known, answer = max(before[tenant], key=lambda item: float(item[0] @ vector))
            first, second = parse(text), parse(known)
            score = float(np.array(compare(first, second, float(near @ vector))) @ weights) + intercept
            scored.append((score - 99 * (veto(first, second) is not None), answer == record["class"]))
        before[tenant].append((vector, text, record["class"]))
    return scored


if __name__ == "__main__":
    main()
