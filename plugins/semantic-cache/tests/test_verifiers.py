"""A last look before a hit is served: by a cross-encoder, or by a model of the gateway."""

import time

import numpy as np
import pytest
from junctor.errors import ErrorKind, ProviderError
from junctor_semantic_cache.onnx_graph import Graph
from junctor_semantic_cache.settings import VerifierSettings
from junctor_semantic_cache.verifiers import make_verifier
from tokenizers import Tokenizer, models, pre_tokenizers

PAIR = {"how do I fold a napkin": "fold it twice", "please how do I fold a napkin": "fold it twice"}
MODELS = [
    {"name": "test", "targets": [{"target": "fake/one"}]},
    {"name": "judge", "targets": [{"target": "fake/judge", "price": {"input": 1, "output": 2}}]},
]


def cross_encoder(folder, *, most, outputs=1):
    """A file whose logit falls with the number of tokens of both texts: yes up to `most`, else no."""
    graph = Graph()
    axis = graph.constant("axis", np.array([1], np.int64))
    tokens = graph.node("ReduceSum", [graph.node("Cast", ["attention_mask"], to=1), axis], keepdims=1)
    limit = graph.constant("limit", np.array([[most + 0.5]], np.float32))
    logit = graph.node("Sub", [limit, tokens], output="embedding" if outputs == 1 else "")
    if outputs == 2:
        zero = graph.node("Sub", [tokens, tokens])
        graph.node("Concat", [zero, logit], output="embedding", axis=1)
    graph.give("embedding", ["batch", outputs])
    (folder / "cross.onnx").write_bytes(graph.serialize())
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "cross.onnx"


async def reword(g):
    """The second of two questions that mean the same, once the requests so far bear the risk."""
    for number in range(12):
        await g.ask(f"question about subject {number * 7}")
    first, second = PAIR
    await g.ask(first)
    return await g.ask(second)


@pytest.mark.parametrize("outputs", [1, 2])
async def test_a_cross_encoder_sees_both_texts(tmp_path, outputs):
    file = cross_encoder(tmp_path, most=6, outputs=outputs)
    verifier = make_verifier(VerifierSettings(onnx=file), gateway=None)
    assert await verifier.same("one two three", "four five six", parent=None)
    assert not await verifier.same("one two three four", "five six seven", parent=None)
    await verifier.aclose()


async def test_the_threshold_is_of_the_probability(tmp_path):
    file = cross_encoder(tmp_path, most=6)  # a logit of 0.5 at six tokens, 0.62 as a probability
    for threshold, said in [(0.6, True), (0.65, False)]:
        verifier = make_verifier(VerifierSettings(onnx=file, threshold=threshold), gateway=None)
        assert await verifier.same("one two three", "four five six", parent=None) is said
        await verifier.aclose()


@pytest.mark.parametrize(("most", "served"), [(50, True), (3, False)])
async def test_a_hit_is_served_only_if_the_cross_encoder_agrees(running, knows, tmp_path, most, served):
    settings = {"max_wrong": "20%", "verifier": {"onnx": str(cross_encoder(tmp_path, most=most)), "timeout": "5s"}}
    async with running(settings, provider=knows(PAIR)) as g:
        answer = await reword(g)
        assert (answer.headers["x-junctor-cache"] == "semantic-hit") is served
        assert served or g.fact["why"] == "verifier said no"


async def test_a_cross_encoder_that_cannot_be_read_is_a_bypass(running, tmp_path):
    (tmp_path / "cross.onnx").write_bytes(b"nothing")
    async with running({"verifier": {"onnx": str(tmp_path / "cross.onnx")}}, wait=False) as g:
        answer = await g.harness.chat("Why?")
    assert (answer.status, answer.headers["x-junctor-cache"]) == (200, "bypass")


@pytest.mark.parametrize(("verdict", "served"), [("yes", True), ("No.", False)])
async def test_a_model_verifies_and_is_paid_for(running, knows, verdict, served):
    settings = {"max_wrong": "20%", "verifier": {"model": "judge", "timeout": "5s"}}
    async with running(settings, provider=knows(PAIR, verdict=verdict), models=MODELS) as g:
        answer = await reword(g)
        assert (answer.headers["x-junctor-cache"] == "semantic-hit") is served
        assert g.purposes.count("judge") == 1
        assert g.cache.namespaces["test"].report()["paid"] > 0


@pytest.mark.parametrize("how", ["slow", "failing"])
async def test_a_verifier_that_does_not_answer_in_time_is_a_miss(running, knows, how):
    provider = knows(PAIR)
    settings = {"max_wrong": "20%", "verifier": {"model": "judge", "timeout": "200ms"}}
    async with running(settings, provider=provider, models=MODELS) as g:
        provider.script = [*[""] * 13, 5.0 if how == "slow" else ProviderError("down", kind=ErrorKind.UNAVAILABLE), ""]
        started = time.monotonic()
        answer = await reword(g)
        assert time.monotonic() - started < 4.0
        assert answer.headers["x-junctor-cache"] == "miss"
        assert g.fact["why"] == "verifier said no"
