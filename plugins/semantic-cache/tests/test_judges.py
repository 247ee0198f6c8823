"""Whoever says whether two answers, or two questions, are the same."""

import random

import pytest
from junctor.errors import ConfigError, ErrorKind, ProviderError
from junctor_semantic_cache.embedders import LocalEmbedder
from junctor_semantic_cache.judges import EmbeddingJudge, FirstLine, Normalised, answer_text

PAIR = {"how do I fold a napkin": "fold it twice", "please how do I fold a napkin": "fold it two times"}
MODELS = [
    {"name": "test", "targets": [{"target": "fake/one"}]},
    {"name": "judge", "targets": [{"target": "fake/judge", "price": {"input": 1, "output": 2}}]},
]
BY_MODEL = {"judge": "model:judge"}


class Always(random.Random):
    """Draws every lot."""

    def random(self):
        return 0.0


async def ask_pair(g):
    for text in PAIR:
        await g.ask(text)
    return await g.cache.engine.store.get(g.fact["candidate"])


def test_answers_are_equal_but_for_case_space_and_markup():
    assert Normalised().key("**Yes**, at 5.") == Normalised().key("yes,  at 5")
    assert Normalised().key("Yes, at 5.") != Normalised().key("Yes, at 6.")


def test_the_first_line_is_the_answer():
    assert FirstLine().key("\nYes\nbecause of rain") == FirstLine().key("yes.\nbecause of snow")
    assert FirstLine().key("No\nbecause") != FirstLine().key("Yes\nbecause")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Turn the valve to the left.", "turn the valve to the left", True),
        ("Turn the big valve to the left slowly now", "Turn the big valve to the left slowly", True),
        ("Wait 5 minutes before opening it", "Wait 6 minutes before opening it", False),
        ("You can open it", "You can not open it", False),
        ("Turn the valve", "Ask your bank", False),
    ],
)
async def test_answers_vectors_and_their_words_tell_whether_they_are_the_same(words, one, other, same):
    embedder = LocalEmbedder(words)
    assert await EmbeddingJudge(embedder).same("How?", one, other, parent=None) is same
    await embedder.aclose()


async def test_the_embedding_judge_labels_what_passes_through_the_gateway(running, knows):
    provider = knows()
    provider._answer = lambda exchange, text: super(knows, provider)._answer(exchange, "fold it over twice")
    async with running({"judge": "embedding"}, provider=provider) as g:
        entry = await ask_pair(g)
    assert (entry.right, entry.wrong) == (1, 0)


@pytest.mark.parametrize(("verdict", "counts"), [("Yes.", (1, 0)), ("no", (0, 1)), ("perhaps", (0, 1))])
async def test_a_model_judges_and_its_word_is_the_label(running, knows, verdict, counts):
    async with running(BY_MODEL, models=MODELS, provider=knows(PAIR, verdict=verdict)) as g:
        entry = await ask_pair(g)
        asked = [body for target, body in g.provider.calls if target == "fake/judge"]
    assert (entry.right, entry.wrong) == counts
    assert len(asked) == 1
    assert "fold it two times" in asked[0]["messages"][0]["content"]


async def test_a_models_judgement_is_paid_for_by_the_namespace(running, knows):
    async with running(BY_MODEL, models=MODELS, provider=knows(PAIR)) as g:
        await ask_pair(g)
        costs = [e.cost.total for e, _, _ in g.recorder.ended if e.purpose == "judge"]
        assert g.cache.namespaces["test"].report()["paid"] * 1e9 == pytest.approx(sum(costs))
    assert sum(costs) > 0


async def test_a_judge_that_calls_everything_equal_is_found_out(running, knows):
    async with running(BY_MODEL, models=MODELS, provider=knows(verdict="yes"), chance=Always()) as g:
        for text in [*PAIR, "name three rivers of Peru", "please name three rivers of Peru"]:
            await g.ask(text)
        report = g.cache.namespaces["test"].report()
    assert report["judge_error"] == 1.0


async def test_a_judge_that_fails_leaves_the_answer_unlabelled(running, knows):
    provider = knows(PAIR, script=["", "", ProviderError("down", kind=ErrorKind.UNAVAILABLE), ""])
    async with running(BY_MODEL, models=MODELS, provider=provider) as g:
        for text in PAIR:
            assert (await g.ask(text)).status == 200
        assert g.cache.namespaces["test"].labels == 0


async def test_the_section_names_a_model_that_is_in_the_file(running):
    with pytest.raises(ConfigError, match="no model is named 'gone'") as error:
        async with running({"judge": "model:gone", "verifier": {"onnx": "/no/such/file"}}, wait=False):
            pass
    assert "verifier.onnx: /no/such/file is no file" in str(error.value)


@pytest.mark.parametrize(
    ("body", "text"),
    [
        (b'{"choices": [{"message": {"content": "hi"}}]}', "hi"),
        (b'{"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}', "a\nb"),
        (b'{"id": "x", "said": "hi"}', '{"said":"hi"}'),
        (b"[1]", "[1]"),
    ],
)
def test_the_text_of_an_answer_is_read_in_every_wire(body, text):
    assert answer_text(body) == text


def test_a_call_of_a_tool_is_part_of_the_answer():
    call = b'{"choices": [{"message": {"content": null, "tool_calls": [{"function": {"name": "%s"}}]}}]}'
    assert answer_text(call % b"f") != answer_text(call % b"g")
