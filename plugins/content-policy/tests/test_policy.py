"""The plugin within a gateway: labels, actions, moderation."""

import json

import pytest
from junctor import Client, ConfigError, Gateway, ProviderError, Response, config, hookimpl
from junctor.errors import ErrorKind
from junctor.testing import FakeProvider, Recorder
from junctor_content_policy import ContentPolicy

MAIL, CARD = "jane.roe@example.com", "4111 1111 1111 1111"
MODELS = [
    {"name": "test", "targets": [{"target": "fake/one"}, {"target": "fake/two", "tags": ["inhouse", "zdr"]}]},
    {"name": "guard", "targets": [{"target": "fake/guard"}]},
]


class Echo(FakeProvider):
    """Answers with what it was asked."""

    def _answer(self, exchange, text):
        return super()._answer(exchange, str(exchange.request.body["messages"][-1]["content"]))


class Tags:
    """Chooses by `require_tags`, as routing does."""

    @hookimpl
    async def route(self, exchange):
        wanted = set(exchange.facts.get("require_tags") or ())
        return [t for t in exchange.model.targets if wanted <= t.tags]


class Caller:
    """Says who calls, as auth does."""

    def __init__(self, **who):
        self.who = who

    @hookimpl
    async def pre_route(self, exchange):
        exchange.client = Client(**self.who)


@pytest.fixture
def policed(gateway):
    def run(settings, provider=None, *plugins):
        recorder = Recorder()
        parts = (recorder, *plugins, (ContentPolicy, settings), Tags(), provider or Echo())
        context = gateway(*parts, models=MODELS)
        return context, recorder

    return run


async def test_a_request_is_marked_with_its_most_sensitive_label(policed):
    context, recorder = policed({})
    async with context as g:
        await g.chat(f"{MAIL} paid with {CARD} and {MAIL}")
    assert recorder.last.facts["sensitivity"] == "regulated"
    assert recorder.last.facts["policy"]["found"] == {"email": 2, "card": 1}


async def test_a_request_without_findings_has_the_lowest_label(policed):
    context, recorder = policed({})
    async with context as g:
        answer = await g.chat("hello")
    assert answer.text == "hello"
    assert recorder.last.facts["sensitivity"] == "none"


async def test_the_log_is_never_told_what_was_found(policed):
    context, recorder = policed({"actions": {"personal": "redact"}})
    async with context as g:
        await g.chat(f"write to {MAIL}")
    assert MAIL not in json.dumps(recorder.last.facts)


async def test_a_redacted_value_never_reaches_the_provider_and_comes_back(policed):
    provider = Echo()
    context, _ = policed({"actions": {"personal": "redact"}}, provider)
    async with context as g:
        answer = await g.chat(f"write to {MAIL}, again {MAIL}")
    assert provider.calls[0][1]["messages"][0]["content"] == "write to [EMAIL_1], again [EMAIL_1]"
    assert answer.text == f"write to {MAIL}, again {MAIL}"


async def test_a_redacted_value_comes_back_in_a_stream(policed):
    context, _ = policed({"actions": {"personal": "redact"}})
    async with context as g:
        answer = await g.chat(f"one {MAIL} two", stream=True)
    assert answer.text == f"one {MAIL} two"
    assert answer.events[-1] == "[DONE]"


async def test_only_findings_of_the_label_are_redacted(policed):
    provider = Echo()
    context, _ = policed({"actions": {"regulated": "redact"}}, provider)
    async with context as g:
        await g.chat(f"{MAIL} {CARD}")
    assert provider.calls[0][1]["messages"][0]["content"] == f"{MAIL} [CARD_1]"


async def test_a_rule_can_have_everything_redacted(policed):
    provider = Echo()
    settings = {
        "rules": [{"when": {"team": "hr"}, "label": "internal"}],
        "actions": {"internal": {"redact": "all"}},
    }
    context, _ = policed(settings, provider, Caller(team="hr"))
    async with context as g:
        await g.chat(f"{MAIL} {CARD}")
    assert provider.calls[0][1]["messages"][0]["content"] == "[EMAIL_1] [CARD_1]"


async def test_all_texts_of_a_request_are_redacted_and_nothing_else(policed):
    provider = Echo("ok")
    context, _ = policed({"actions": {"personal": "redact"}}, provider)
    image = {"type": "image_url", "image_url": {"url": f"https://x.example/?u={MAIL}"}}
    call = {"id": MAIL, "type": "function", "function": {"name": "f", "arguments": json.dumps({"to": MAIL})}}
    messages = [
        {"role": "system", "content": MAIL},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "user", "content": [{"type": "text", "text": MAIL}, image]},
    ]
    async with context as g:
        await g.request("POST", "/v1/chat/completions", {"model": "test", "messages": messages})
    sent = json.dumps(provider.calls[0][1])
    assert sent.count("[EMAIL_1]") == 3
    assert provider.calls[0][1]["messages"][1]["tool_calls"][0]["id"] == MAIL
    assert provider.calls[0][1]["messages"][2]["content"][1] == image


async def test_embeddings_are_redacted_too(policed):
    provider = FakeProvider()
    context, _ = policed({"actions": {"personal": "redact"}}, provider)
    async with context as g:
        await g.request("POST", "/v1/embeddings", {"model": "test", "input": ["a", MAIL]})
    assert provider.calls[0][1]["input"] == ["a", "[EMAIL_1]"]


async def test_a_label_sends_the_request_to_targets_with_a_tag(policed):
    context, recorder = policed({"actions": {"regulated": {"route": ["inhouse"]}, "personal": {"route": ["zdr"]}}})
    async with context as g:
        answer = await g.chat(f"{CARD} {MAIL}")
        plain = await g.chat("hello")
    assert answer.headers["x-junctor-target"] == "fake/two"
    assert recorder.ended[0][0].facts["require_tags"] == ["inhouse", "zdr"]
    assert plain.headers["x-junctor-target"] == "fake/one"


async def test_a_refusal_names_the_kind_and_the_place_but_not_the_value(policed):
    provider = Echo()
    context, recorder = policed({"actions": {"regulated": "refuse"}}, provider)
    async with context as g:
        answer = await g.chat(f"my card is {CARD}")
    error = answer.json()["error"]
    assert answer.status == 403
    assert (error["code"], error["param"]) == ("content_policy", "messages[0].content")
    assert "card" in error["message"]
    assert CARD not in answer.body.decode()
    assert not provider.calls
    assert recorder.last.facts["policy"]["refused"] == "regulated"


async def test_a_refusal_may_have_words_of_its_own(policed):
    context, _ = policed({"actions": {"regulated": {"refuse": "No card numbers, please."}}})
    async with context as g:
        answer = await g.chat(CARD)
    assert answer.json()["error"]["message"] == "No card numbers, please."


@pytest.mark.parametrize(
    ("when", "who", "headers", "label"),
    [
        ({"team": ["hr", "law"]}, {"team": "law"}, {}, "internal"),
        ({"team": "hr"}, {"team": "law"}, {}, "none"),
        ({"team": "h*", "feature": "payroll"}, {"team": "hr", "feature": "payroll"}, {}, "internal"),
        ({"team": "hr", "feature": "payroll"}, {"team": "hr"}, {}, "none"),
        ({"header": {"X-Data": "secret"}}, {}, {"x-data": "secret"}, "internal"),
        ({"header": {"X-Data": "*"}}, {}, {"x-data": "anything"}, "internal"),
        ({"header": {"x-data": "*"}}, {}, {}, "none"),
        ({"client": "app", "key": "k1", "model": "test"}, {"name": "app", "key_id": "k1"}, {}, "internal"),
    ],
)
async def test_rules_label_by_who_asks(policed, when, who, headers, label):
    context, recorder = policed({"rules": [{"when": when, "label": "internal"}]}, None, Caller(**who))
    async with context as g:
        await g.chat("hi", headers=headers)
    assert recorder.last.facts["sensitivity"] == label


async def test_own_patterns_and_words_label_too(policed, tmp_path):
    file = tmp_path / "projects.txt"
    file.write_text("# code names\nFalcon\n\nBlue Moon\n")
    settings = {
        "patterns": {},
        "custom": {"staff": {"regex": r"EMP-\d+", "label": "personal"}},
        "words": {"projects": {"file": str(file), "label": "internal"}},
        "actions": {"personal": "redact", "internal": "redact"},
    }
    provider = Echo()
    context, _ = policed(settings, provider)
    async with context as g:
        answer = await g.chat("EMP-12 in blue moon")
    assert provider.calls[0][1]["messages"][0]["content"] == "[STAFF_1] in [PROJECTS_1]"
    assert answer.text == "EMP-12 in blue moon"


async def test_a_large_request_is_scanned_as_well(policed):
    provider = Echo()
    context, _ = policed({"actions": {"personal": "redact"}}, provider)
    async with context as g:
        answer = await g.chat("word " * 20_000 + MAIL)
    assert provider.calls[0][1]["messages"][0]["content"].endswith("[EMAIL_1]")
    assert answer.text.endswith(MAIL)


class Guard(Echo):
    """A moderation model that says what `verdict` says; an echo for everybody else."""

    def __init__(self, verdict):
        super().__init__()
        self.verdict = verdict

    def _answer(self, exchange, text):
        if exchange.request.model != "guard":
            return super()._answer(exchange, text)
        if isinstance(self.verdict, Exception):
            raise self.verdict
        return FakeProvider._answer(self, exchange, self.verdict)


MODERATED = {
    "labels": ["none", "personal", "unsafe"],
    "patterns": {"email": "personal"},
    "moderation": {"model": "guard", "label": "unsafe", "timeout": "200ms"},
    "actions": {"unsafe": {"refuse": True}, "personal": "redact"},
}
FAILURE = ProviderError("down", kind=ErrorKind.OVERLOADED)


@pytest.mark.parametrize(("verdict", "status"), [("safe", 200), ("unsafe\nS1", 403), ('{"flagged": true}', 403)])
async def test_a_moderation_model_has_its_say(policed, verdict, status):
    context, recorder = policed(MODERATED, Guard(verdict))
    async with context as g:
        answer = await g.chat("how do I …")
    assert answer.status == status
    assert recorder.last.facts["policy"]["moderation"] == {"model": "guard", "flagged": status == 403}


async def test_the_moderation_model_is_asked_once_and_gets_the_redacted_text(policed):
    provider = Guard("safe")
    context, recorder = policed(MODERATED, provider)
    async with context as g:
        answer = await g.chat(f"ask {MAIL}")
    asked = [body["messages"][-1]["content"] for target, body in provider.calls if target == "fake/guard"]
    assert asked == ["ask [EMAIL_1]"]
    assert answer.text == f"ask {MAIL}"
    assert [e.purpose for e, _, _ in recorder.ended] == ["moderation", ""]


@pytest.mark.parametrize(("on_failure", "status"), [("closed", 503), ("open", 200)])
async def test_moderation_that_fails_refuses_or_lets_pass_as_configured(policed, on_failure, status):
    settings = {**MODERATED, "moderation": {**MODERATED["moderation"], "on_failure": on_failure}}
    context, recorder = policed(settings, Guard(FAILURE))
    async with context as g:
        assert (await g.chat("hi")).status == status
    if status == 200:
        assert recorder.last.facts["policy"]["moderation"]["flagged"] is None


async def test_moderation_that_is_slow_is_not_waited_for(policed):
    class Slow(Guard):
        @hookimpl
        async def call(self, exchange, target):
            import asyncio

            if exchange.request.model == "guard":
                await asyncio.sleep(30)
            return await super().call(exchange, target)

    settings = {**MODERATED, "moderation": {**MODERATED["moderation"], "on_failure": "open", "timeout": "50ms"}}
    context, _ = policed(settings, Slow("safe"))
    async with context as g:
        answer = await g.chat("hi")
    assert answer.status == 200


async def test_the_moderation_model_is_held_to_the_same_tags(gateway):
    routing = pytest.importorskip("junctor_routing").Routing
    provider, recorder = Guard("safe"), Recorder()
    settings = {**MODERATED, "actions": {"personal": {"route": ["zdr"]}}}
    async with gateway(recorder, (ContentPolicy, settings), (routing, {}), provider, models=MODELS) as g:
        plain, personal = await g.chat("hi"), await g.chat(MAIL)
    assert (plain.status, personal.status) == (200, 503)
    assert sum(target == "fake/guard" for target, _ in provider.calls) == 1


async def test_routing_carries_out_what_the_policy_wants(gateway):
    routing = pytest.importorskip("junctor_routing").Routing
    settings = {"actions": {"regulated": {"route": ["inhouse"]}}}
    async with gateway((ContentPolicy, settings), (routing, {}), Echo(), models=MODELS) as g:
        targets = {(await g.chat(CARD)).headers["x-junctor-target"] for _ in range(10)}
    assert targets == {"fake/two"}


async def test_moderation_may_be_for_some_only(policed):
    settings = {**MODERATED, "moderation": {**MODERATED["moderation"], "when": {"team": "kids"}}}
    context, _ = policed(settings, Guard("unsafe"))
    async with context as g:
        assert (await g.chat("hi")).status == 200


async def test_a_cached_answer_is_restored_with_the_values_of_who_asks(policed):
    class Cache:
        stored = None

        @hookimpl
        async def cache_lookup(self, exchange):
            return Response(self.stored, cached="exact") if self.stored else None

        @hookimpl
        async def post_call(self, exchange, response):
            self.stored = response.body

    context, _ = policed({"actions": {"personal": "redact"}}, None, Cache())
    async with context as g:
        await g.chat(f"mail {MAIL}")
        answer = await g.chat("mail other@example.org")
    assert answer.text == "mail other@example.org"


def problems_of(settings):
    tree = {"models": MODELS, "plugins": [{"content_policy": settings}]}
    try:
        Gateway(config.parse(json.dumps(tree)))
    except ConfigError as error:
        return [p for p in error.problems if "content_policy" in p]
    return []


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"actions": {"secret": "refuse"}}, "actions.secret: 'secret' is not one of the labels none, internal"),
        ({"patterns": {"mail": "personal"}}, "patterns.mail"),
        ({"countries": ["xx"]}, "countries: 'xx' is not known"),
        ({"custom": {"a": {"regex": "(", "label": "internal"}}}, "is no regular expression"),
        ({"custom": {"a": {"regex": "x*", "label": "internal"}}}, "matches the empty text"),
        ({"custom": {"card": {"regex": "x", "label": "internal"}}}, "the name 'card' is given twice"),
        ({"words": {"w": {"label": "internal"}}}, "give words or a file"),
        ({"words": {"w": {"label": "internal", "file": "nowhere.txt"}}}, "words.w.file: nowhere.txt cannot be read"),
        ({"actions": {"personal": {"route": ["moon"]}}}, "actions.personal.route: no target has the tag 'moon'"),
        ({"actions": {"personal": {"route": ["zdr"]}}}, "needs the plugin `routing`"),
        ({"moderation": {"model": "gard", "label": "internal"}}, "moderation.model: no model is named 'gard'"),
        ({"moderation": {"model": "guard", "label": "internal", "flagged": "("}}, "is no regular expression"),
    ],
)
def test_a_mistake_in_the_settings_is_told(settings, text):
    assert any(text in problem for problem in problems_of(settings)), problems_of(settings)
