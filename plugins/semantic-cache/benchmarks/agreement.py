"""How far the int8 model is from its float32 original, on generated questions. Prints JSON.

    python plugins/semantic-cache/benchmarks/agreement.py [--texts 400]

`cosine` is that of a text's two vectors, mean and least; `pairs_rms` is by how much the cosine of two texts differs
between the models (root of the mean square), which is what the cache decides by; `ms` is the median time of one text of
11 words with each.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from statistics import median

import numpy as np
from junctor.assets import fetch
from junctor_semantic_cache.models import MINILM, MiniLM, load_model
from junctor_semantic_cache.onnx_build import build_minilm, read_safetensors

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from generate import generate

_TIMED = "how do I change the pin of my card when abroad"


def _original() -> MiniLM:
    folder = fetch(MINILM)
    content = build_minilm(read_safetensors(next(folder.rglob("model.safetensors"))))
    return MiniLM(content, tokenizer=next(folder.rglob("tokenizer.json")))


def _milliseconds(model: MiniLM) -> float:
    taken = []
    for _ in range(100):
        begun = time.perf_counter()
        model.encode([_TIMED])
        taken.append((time.perf_counter() - begun) * 1e3)
    return round(median(taken), 2)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=400)
    args = parser.parse_args()
    texts = [pair.one for pair in generate(args.texts, seed=11)]
    small, original = load_model("minilm"), _original()
    assert isinstance(small, MiniLM)
    mine, theirs = small.encode(texts), original.encode(texts)
    cosine = (mine * theirs).sum(axis=1)
    off = (mine @ mine.T - theirs @ theirs.T)[np.triu_indices(len(texts), 1)]
    found = {
        "cosine": [round(float(cosine.mean()), 4), round(float(cosine.min()), 4)],
        "pairs_rms": round(float(np.sqrt(np.square(off).mean())), 4),
        "ms": {"int8": _milliseconds(small), "float32": _milliseconds(original)},
    }
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
