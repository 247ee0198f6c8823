"""Secrets are found by their value and by their form, in texts, settings and log lines."""

import json
import logging
import sys

import pytest
from junctor import ConfigError, ErrorKind, PluginSettings, ProviderError, config
from junctor.secrets import MARK, SafeFormatter, Secrets, secrets_in, secrets_of_headers
from junctor.testing import FakeProvider
from pydantic import SecretStr


@pytest.mark.parametrize(
    "secret",
    [
        "sk-proj-abcdefghijklmnopqrstuv",
        "sk-ant-api03-abcdefghijklmnop",
        "AIzaSyA-abcdefghijklmnopqrstuvwx",
        "AKIAABCDEFGHIJKLMNOP",
        "ghp_abcdefghijklmnopqrstuvwxyz",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abcdefghijk",
        "gsk_abcdefghijklmnopqrstuvwx",
    ],
)
def test_hides_what_looks_like_a_key(secret):
    assert Secrets().hide(f"Incorrect key {secret}, sorry") == f"Incorrect key {MARK}, sorry"


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("postgresql://me:hunter22@db/x", f"postgresql://me:{MARK}@db/x"),
        ("Authorization: Bearer abc123def456ghi", f"Authorization: Bearer {MARK}"),
        ("password=correct-horse, retry", f"password={MARK}, retry"),
        ("Incorrect API key provided: whatever-it-is", f"Incorrect API key provided: {MARK}"),
    ],
)
def test_hides_what_a_word_announces_and_keeps_the_word(text, hidden):
    assert Secrets().hide(text) == hidden


@pytest.mark.parametrize("text", ["basic understanding of keys", "the token limit is 4096", "a secret garden", "1:2@3"])
def test_leaves_plain_sentences_alone(text):
    assert Secrets().hide(text) == text


def test_hides_a_known_value_of_any_form():
    assert Secrets(["plain words here"]).hide("say plain words here") == f"say {MARK}"
    assert Secrets(["short"]).hide("a short word") == "a short word"


def test_finds_every_secret_of_a_settings_model():
    class Deep(PluginSettings):
        keys: dict[str, list[SecretStr]]
        plain: str = "not this"

    assert list(secrets_in([Deep(keys={"a": [SecretStr("one"), SecretStr("two")]})])) == ["one", "two"]


@pytest.mark.parametrize(
    "header",
    [
        ("x-provider", "anthropic"),
        ("anthropic-version", "2023-06-01"),
        ("anthropic-beta", "prompt-caching-2024-07-31,tools-2024-04-04"),
        ("api-version", "2024-12-01-preview"),
        ("x-target", "openai/gpt-4o-mini"),
        ("x-region", "eu-west-1"),
        ("accept", "application/json"),
        ("http-referer", "https://gateway.example.com"),
        ("x-title", "Example"),
    ],
)
def test_a_plain_word_in_a_target_s_header_is_no_secret(header):
    assert list(secrets_of_headers(dict([header]))) == []


@pytest.mark.parametrize(
    "header",
    [
        ("Authorization", "allletters"),
        ("x-api-key", "allletters"),
        ("api-key", "allletters"),
        ("X-Goog-Api-Key", "allletters"),
        ("cookie", "allletters"),
        ("x-upstream-token", "allletters"),
        ("x-upstream-password", "allletters"),
        ("x-anything", "a8f3k2m9q1"),
        ("x-anything", "AbCdEfGhIjKl"),
        ("x-anything", "550e8400-e29b-41d4-a716-446655440000"),
        ("x-anything", "1234567890"),
        ("x-anything", "user=someone"),
        ("x-anything", "correct horse battery"),
    ],
)
def test_a_credential_in_a_target_s_header_is_secret(header):
    assert list(secrets_of_headers(dict([header]))) == [header[1]]


def test_what_follows_a_scheme_is_secret_for_itself():
    assert list(secrets_of_headers({"authorization": "Bearer allletters"})) == ["Bearer allletters", "allletters"]


def test_a_configuration_s_headers_are_told_apart():
    headers = {"x-provider": "anthropic", "x-api-key": "allletters", "x-other": "a8f3k2m9q1", "x-third": "${THIRD}"}
    models = [{"name": "test", "targets": [{"target": "fake/one", "headers": headers}]}]
    read = config.parse(json.dumps({"models": models}), environ={"THIRD": "plainword"})
    assert Secrets(read.secrets).hide("anthropic allletters a8f3k2m9q1") == f"anthropic {MARK} {MARK}"
    assert Secrets(read.secrets).hide("a plainword") == f"a {MARK}"
    (target,) = read.models["test"].targets
    assert target.headers == {**headers, "x-third": "plainword"}
    assert "plainword" in list(secrets_of_headers(target.headers))


def test_a_header_that_is_no_text_is_told_with_the_remedy():
    models = [{"name": "test", "targets": [{"target": "fake/one", "headers": {"x-version": 2}}]}]
    with pytest.raises(ConfigError, match=r"headers: x-version: is not a text; put the value in quotes"):
        config.parse(json.dumps({"models": models}))


def test_a_log_line_with_its_traceback_holds_no_key():
    try:
        raise ValueError("bad key sk-abcdefghijklmnopqrst") from KeyError("my own words")
    except ValueError:
        record = logging.LogRecord("x", logging.ERROR, "f", 1, "failed", (), sys.exc_info())
    formatter = SafeFormatter("%(message)s")
    formatter.secrets = Secrets(["my own words"])
    text = formatter.format(record)
    assert MARK in text
    assert "sk-abcdef" not in text
    assert "my own words" not in text


MODELS = [{"name": "test", "targets": [{"target": "fake/one", "api_key": "no form at all"}]}]


async def test_a_provider_that_quotes_its_key_tells_it_to_nobody(gateway):
    error = ProviderError("the key no form at all is wrong", kind=ErrorKind.AUTHENTICATION)
    async with gateway(FakeProvider(script=[error]), models=MODELS) as g:
        answer = await g.chat()
    assert answer.status == 502
    assert answer.json()["error"]["message"] == f"the key {MARK} is wrong"


async def test_a_provider_s_name_stays_in_its_error_though_a_header_has_it(gateway):
    error = ProviderError("anthropic does not know allletters", kind=ErrorKind.AUTHENTICATION)
    target = {"target": "fake/one", "headers": {"x-provider": "anthropic", "authorization": "Bearer allletters"}}
    async with gateway(FakeProvider(script=[error]), models=[{"name": "test", "targets": [target]}]) as g:
        answer = await g.chat()
    assert answer.json()["error"]["message"] == f"anthropic does not know {MARK}"


async def test_nor_in_the_middle_of_a_stream(gateway):
    class Breaking(FakeProvider):
        async def _pieces(self, text, model, operation):
            async for piece in super()._pieces(text, model, operation):
                yield piece
                if b"hello" in piece:
                    raise ProviderError("no form at all has expired", kind=ErrorKind.AUTHENTICATION)

    async with gateway(Breaking(), models=MODELS) as g:
        answer = await g.chat(stream=True)
    assert answer.events[-1]["error"]["message"] == f"{MARK} has expired"
