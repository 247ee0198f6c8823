"""From two questions to the signals that the controller learns on: the offline model, and what the neighbours say."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

from junctor_semantic_cache.controller import SIGNALS, Prior
from junctor_semantic_cache.evidence import FEATURES, compare, parse, veto

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from junctor_semantic_cache.evidence import Text
    from junctor_semantic_cache.store import Candidate

__all__ = ["Scored", "Weights", "best_candidate", "load_weights"]

_NEAR = FEATURES.index("near")
_COMPARED = 4  # of the nearest, by similarity: texts are compared in plain Python


@dataclass(frozen=True)
class Weights:
    """The offline model: one weight a feature, an intercept, and what the controller starts from."""

    features: NDArray[np.float64]
    intercept: float
    prior: Prior


@dataclass(frozen=True, slots=True)
class Scored:
    """The entry that fits best, and why. `signals` are in the order of `SIGNALS`; `veto` names what forbids it."""

    candidate: Candidate
    signals: tuple[float, ...]
    evidence: dict[str, float]
    veto: str | None


def load_weights() -> Weights:
    """Read the weights that `training/train.py` wrote."""
    raw = json.loads(resources.files(__package__).joinpath("weights.json").read_text())
    features = np.array([raw["features"][name] for name in FEATURES])
    mean = np.array([raw["prior"][name]["mean"] for name in SIGNALS])
    deviation = np.array([raw["prior"][name]["deviation"] for name in SIGNALS])
    return Weights(features, float(raw["intercept"]), Prior(mean, deviation, float(raw["prior_worth"])))


def best_candidate(
    question: Text, candidates: Sequence[Candidate], weights: Weights, *, read: Callable[[str], Text] = parse
) -> Scored | None:
    """Of the nearest entries, the one most likely to be right; one that is forbidden only if there is no other."""
    best: tuple[float, Candidate, list[float], float, float, float] | None = None
    forbidden: Scored | None = None
    for candidate in candidates[:_COMPARED]:
        known = read(candidate.entry.text)
        features = compare(question, known, candidate.similarity)
        if reason := veto(question, known):
            forbidden = forbidden or Scored(candidate, (), _shown(features), reason)
            continue
        similarity, clean, evidence = _parts(features, weights)
        score = similarity + clean + evidence
        if best is None or score > best[0]:
            best = (score, candidate, features, similarity, clean, evidence)
    if best is None:
        return forbidden
    _, candidate, features, similarity, clean, evidence = best
    margin, support = _neighbours(candidate, candidates)
    record = math.log((candidate.entry.right + 1) / (candidate.entry.wrong + 1))
    near = features[_NEAR]
    signals = (1.0, similarity, near, clean, evidence, margin, support, record)
    return Scored(candidate, signals, _shown(features), None)


def _parts(features: Sequence[float], weights: Weights) -> tuple[float, float, float]:
    """What the vectors say, what clean agreement of the words adds, and what speaks against."""
    values = np.asarray(features) * weights.features
    return weights.intercept + float(values[:2].sum()), float(values[-1]), float(values[2:-1].sum())


def _neighbours(chosen: Candidate, candidates: Sequence[Candidate]) -> tuple[float, float]:
    """How far the nearest entry with another answer is behind, and how many near entries share the answer."""
    others = [c.similarity for c in candidates if c.entry.group != chosen.entry.group]
    margin = chosen.similarity - max(0.5, others[0] if others else 0.5)
    same = [c for c in candidates if c.entry.group == chosen.entry.group and c is not chosen]
    return 10 * margin, sum(max(0.0, c.similarity - 0.5) for c in same)


def _shown(features: Sequence[float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in zip(FEATURES, features, strict=True) if value}
