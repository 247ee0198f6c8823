"""Draws the pictures of docs/semantic-cache.md as SVG, from generated pairs and from arithmetic alone.

python training/curves.py ../../docs/img
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from generate import generate
from junctor_semantic_cache.bounds import mean_budget, most_wrong
from junctor_semantic_cache.evidence import compare, parse, veto
from junctor_semantic_cache.models import load_model
from junctor_semantic_cache.scoring import load_weights

Line = tuple[str, str, list[tuple[float, float]]]


def draw(file: Path, *, title: str, across: str, up: str, lines: list[Line], right: float, top: float) -> None:
    """A plain line chart; every line is a name, a colour and its points."""
    left, bottom, wide, high = 70, 310, 460, 250
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 560 370" font-family="sans-serif" font-size="13">',
        '<rect width="560" height="370" fill="white"/>',
        f'<text x="{left}" y="28" font-size="15">{title}</text>',
        f'<path d="M{left} {bottom - high}V{bottom}H{left + wide}" fill="none" stroke="#444"/>',
        f'<text x="{left + wide / 2}" y="358" text-anchor="middle">{across}</text>',
        f'<text transform="translate(18 {bottom - high / 2}) rotate(-90)" text-anchor="middle">{up}</text>',
    ]
    for step in range(5):
        x, y = left + wide * step / 4, bottom - high * step / 4
        parts.append(f'<text x="{x:.0f}" y="{bottom + 18}" text-anchor="middle">{right * step / 4:g}</text>')
        parts.append(f'<text x="{left - 8}" y="{y + 4:.0f}" text-anchor="end">{top * step / 4:g}</text>')
    for number, (name, colour, points) in enumerate(lines):
        shown = [(left + wide * min(x / right, 1), bottom - high * min(y / top, 1)) for x, y in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in shown)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{left + 20}" y="{64 + 18 * number}" fill="{colour}">{name}</text>')
    file.write_text("\n".join([*parts, "</svg>"]) + "\n")


def ranked(scores: np.ndarray, right: np.ndarray) -> list[tuple[float, float]]:
    """Share of wrong pairs let through, share of right pairs found, per cent, from the highest score on."""
    order = np.argsort(-scores)
    wrong, found = np.cumsum(~right[order]) / len(right), np.cumsum(right[order]) / max(1, right.sum())
    keep = np.unique(np.linspace(0, len(order) - 1, 400).astype(int))
    return [(100 * float(wrong[i]), 100 * float(found[i])) for i in keep]


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model, weights = load_model("minilm"), load_weights()
    cosines, scores, labels = [], [], []
    for pair in generate(3000, seed=2024):  # another seed than the training's
        one, other = parse(pair.one), parse(pair.other)
        vectors = model.encode([pair.one, pair.other])
        cosines.append(float(vectors[0] @ vectors[1]))
        score = float(np.array(compare(one, other, cosines[-1])) @ weights.features)
        scores.append(score - 99 * (veto(one, other) is not None))
        labels.append(pair.same)
    right = np.array(labels)
    lines: list[Line] = [
        ("similarity alone", "#c33", ranked(np.array(cosines), right)),
        ("similarity and words", "#06c", ranked(np.array(scores), right)),
    ]
    draw(
        folder / "semcache-score.svg",
        title="Generated pairs: right ones found, wrong ones let through",
        across="wrong, % of all pairs",
        up="right found, %",
        lines=lines,
        right=8.0,
        top=100.0,
    )
    totals = list(range(50, 3001, 25))
    budget = [(float(n), mean_budget(n, 0.01)) for n in totals]
    most = [(float(n), float(max(0, most_wrong(n, 0.01)))) for n in totals]
    line = [(float(n), 0.01 * n) for n in totals]
    draw(
        folder / "semcache-budget.svg",
        title="How many wrong answers so many requests can bear, limit 1 %",
        across="requests",
        up="wrong answers",
        lines=[
            ("1 % of the requests", "#999", line),
            ("most whose 95 % bound is under 1 %", "#c33", most),
            ("expected number that is allowed", "#06c", budget),
        ],
        right=3000.0,
        top=32.0,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/img"))
