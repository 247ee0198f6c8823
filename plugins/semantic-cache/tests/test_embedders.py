"""The embedders that are options: static vectors, `fastembed`, and a model of the gateway itself."""

import numpy as np
import pytest
from junctor.errors import AssetError, ErrorKind, ProviderError
from junctor.testing import require
from junctor_semantic_cache.embedders import GatewayEmbedder
from junctor_semantic_cache.models import load_model, needed_assets

PRICED = [
    {"name": "test", "targets": [{"target": "fake/one"}]},
    {"name": "embed", "targets": [{"target": "fake/embed", "price": {"input": 1, "output": 0}}]},
]
GATEWAY = {"embedder": "gateway:embed"}


@pytest.fixture(scope="module")
def wordllama():
    try:
        return load_model("wordllama")
    except AssetError as error:
        require(False, str(error))


def test_static_vectors_have_length_one_and_know_words_that_are_near(wordllama):
    a, b, c = wordllama.encode(["How do I reset my password?", "I forgot my password", "Which river crosses Vienna?"])
    assert [np.linalg.norm(v) for v in (a, b, c)] == pytest.approx([1, 1, 1], abs=1e-5)
    assert a @ b > a @ c + 0.2


@pytest.mark.parametrize("text", ["", "\u0000", "🦊", "word " * 2000])
def test_static_vectors_exist_for_any_text(wordllama, text):
    assert np.isfinite(wordllama.encode([text])).all()


def test_the_window_of_static_vectors_is_where_they_end(wordllama):
    long = "word " * 2000
    seen = long[: wordllama.window(long)]
    assert len(seen) < len(long)
    assert np.allclose(wordllama.encode([long]), wordllama.encode([seen]), atol=1e-3)


async def test_static_vectors_serve_the_gateway(running, wordllama):
    async with running({"embedder": "wordllama"}, load=lambda name: wordllama) as g:
        await g.ask("Why is the sea salty?")
        answer = await g.ask("why is the sea salty")
    assert answer.headers["x-junctor-cache"] == "semantic-hit"


def test_only_embedders_with_files_of_their_own_need_assets():
    assert [asset.name for asset in needed_assets("wordllama")] == ["wordllama"]
    assert needed_assets("fastembed:x") == needed_assets("gateway:x") == []


def test_fastembed_without_its_package_or_model_names_the_remedy():
    with pytest.raises(AssetError, match=r"pip install fastembed|cannot load 'no/such-model'"):
        load_model("fastembed:no/such-model")


_PACKAGE = """
class TextEmbedding:
    def __init__(self, name, threads=None):
        self.name = name
    def embed(self, texts):
        yield from ([3.0 * len(text), 4.0 * len(text)] for text in texts)
"""


async def test_fastembeds_vectors_are_brought_to_length_one(running, tmp_path, monkeypatch):
    (tmp_path / "fastembed.py").write_text(_PACKAGE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "fastembed", raising=False)
    model = load_model("fastembed:some/model")
    assert (model.name, model.dimension) == ("fastembed-some/model", 2)
    assert model.encode(["abc", "a"]).tolist() == [pytest.approx([0.6, 0.8])] * 2
    async with running({"embedder": "fastembed:some/model"}, load=lambda name: model) as g:
        await g.ask("Why is rust red?")
        assert (await g.ask("why is rust red")).headers["x-junctor-cache"] == "semantic-hit"


async def test_a_model_of_the_gateway_is_asked_once_a_text(running):
    async with running(GATEWAY, models=PRICED) as g:
        embedder = await GatewayEmbedder.open(g.harness.gateway, "embed")
        before = len(g.purposes)
        await embedder.embed("same")
        vector = await embedder.embed("same")
    assert np.linalg.norm(vector) == pytest.approx(1.0)
    assert g.purposes[before:] == ["embedding"]


async def test_embeddings_are_paid_for_by_the_namespace_that_needs_them(running):
    async with running(GATEWAY, models=PRICED) as g:
        await g.ask("Why is the moon pale?")
        await g.ask("Why is the moon pale?")
        costs = [e.cost.total for e, _, _ in g.recorder.ended if e.purpose and e.parent]
        report = g.cache.namespaces["test"].report()
    assert len(costs) == 1  # the second time the words were the same
    assert report["paid"] * 1e9 == pytest.approx(costs[0])
    assert report["paid"] > 0


@pytest.mark.parametrize("how", ["fails", "nonsense", "dimension"])
async def test_an_embedding_model_that_fails_is_a_bypass(running, knows, how):
    provider = knows()
    async with running(GATEWAY, models=PRICED, provider=provider) as g:
        _embed_badly(provider, how)
        answer = await g.harness.chat("Why is the moon round?")
        assert (answer.status, answer.headers["x-junctor-cache"]) == (200, "bypass")
        assert g.fact["why"]


def _embed_badly(provider, how):
    good = provider._answer

    def bad(exchange, text):
        response = good(exchange, text)
        if exchange.request.operation == "embeddings":
            if how == "fails":
                raise ProviderError("down", kind=ErrorKind.UNAVAILABLE)
            response.body = b'{"data": []}' if how == "nonsense" else b'{"data": [{"embedding": [1.0, 2.0, 3.0]}]}'
        return response

    provider._answer = bad
