"""The real model: its int8 file against the original's vectors, and what it is for."""

import asyncio

import numpy as np
import pytest
from junctor_semantic_cache.embedders import EmbedderBusy, LocalEmbedder
from junctor_semantic_cache.models import reference_vectors


def test_the_int8_model_agrees_with_the_original(minilm):
    for text, reference in reference_vectors().items():
        vector = minilm.encode([text])[0]
        assert float(vector @ reference.astype(np.float32)) > 0.995
        assert np.linalg.norm(vector) == pytest.approx(1.0, abs=1e-4)


def test_a_batch_says_what_each_text_says_alone(minilm):
    texts = ["Why rain?", "A much longer question about the rain that falls on the roof of the old mill by the sea"]
    for text, row in zip(texts, minilm.encode(texts), strict=True):
        assert float(row @ minilm.encode([text])[0]) == pytest.approx(1.0, abs=1e-5)


def test_paraphrases_are_nearer_than_strangers(minilm):
    a, b, c = minilm.encode(["How do I reset my password?", "I forgot my password", "Which river crosses Vienna?"])
    assert a @ b > a @ c + 0.3


def test_the_window_ends_where_the_models_does(minilm):
    long = "word " * 1000
    assert minilm.window(long) < len(long)
    assert np.allclose(minilm.encode([long]), minilm.encode([long[: minilm.window(long)]]), atol=0.02)
    assert minilm.window("short") == 5


async def test_texts_that_wait_are_embedded_together_and_once(words):
    batches = []

    class Counting(type(words)):
        def encode(self, texts):
            batches.append(list(texts))
            return super().encode(texts)

    embedder = LocalEmbedder(Counting())
    vectors = await asyncio.gather(*(embedder.embed(text) for text in ["a", "b", "a", "c"]))
    await embedder.embed("a")
    assert (vectors[0] == vectors[2]).all()
    assert sorted(text for batch in batches for text in batch) == ["a", "b", "c"]
    assert len(batches) <= 2
    await embedder.aclose()


async def test_too_many_waiting_texts_are_refused(words):
    embedder = LocalEmbedder(words, waiting=2)
    results = await asyncio.gather(*(embedder.embed(str(n)) for n in range(4)), return_exceptions=True)
    assert sum(isinstance(result, EmbedderBusy) for result in results) == 2
    await embedder.aclose()
