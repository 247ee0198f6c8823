"""Keys of the file: who they are, what they may, and what everybody else is told."""

import hashlib
from datetime import UTC, datetime, timedelta

import pytest
from junctor import Client, ConfigError, hookimpl
from junctor.testing import FakeProvider, Recorder
from junctor_auth import Auth

KEY = "search-key-0123456789"
MODELS = [
    {"name": "test", "targets": [{"target": "fake/one"}]},
    {"name": "test-large", "targets": [{"target": "fake/two"}]},
    {"name": "other", "targets": [{"target": "fake/three"}]},
]
EMBED = {"model": "test", "input": "hi"}


def auth(**client):
    return (Auth, {"clients": [{"name": "search", "key": KEY, **client}]})


def bearer(key=KEY, **more):
    return {"authorization": f"Bearer {key}", **more}


@pytest.mark.parametrize(
    "headers",
    [
        {"authorization": f"Bearer {KEY}"},
        {"authorization": f"bearer  {KEY} "},
        {"x-api-key": KEY},
        {"x-goog-api-key": KEY},
        {"authorization": f"Bearer {KEY}", "x-api-key": KEY},
    ],
)
async def test_a_key_is_understood_wherever_an_sdk_puts_it(gateway, headers):
    async with gateway(auth(), FakeProvider()) as g:
        assert (await g.chat(headers=headers)).status == 200


BAD = {
    "missing": {},
    "unknown": {"authorization": "Bearer not-a-key-of-anyone"},
    "empty": {"authorization": "Bearer "},
    "of another scheme": {"authorization": f"Basic {KEY}"},
    "without a scheme": {"authorization": KEY},
    "two that differ": {"authorization": f"Bearer {KEY}", "x-api-key": "another-key-0123456"},
    "sent twice": {"authorization": [f"Bearer {KEY}", f"Bearer {KEY}"]},
    "smuggled in a list": {"authorization": f"Bearer {KEY}, Bearer {KEY}"},
    "with a line break": {"authorization": f"Bearer {KEY}\r\nx-junctor-feature: admin"},
    "with a null": {"authorization": f"Bearer {KEY}\0"},
    "of other letters": {"authorization": "Bearer Ünïcode-kéy-0123456"},
    "long": {"authorization": "Bearer " + "a" * 60_000},
    "an SQL injection": {"authorization": "Bearer ' OR '1'='1' --"},
    "a stored key's form": {"authorization": "Bearer jct-0123456789ab-' OR 1=1 --"},
}


@pytest.mark.parametrize("headers", BAD.values(), ids=BAD)
async def test_every_doubtful_key_gets_the_same_401(gateway, headers):
    provider = FakeProvider()
    async with gateway(auth(), provider) as g:
        answer = await g.chat(headers=headers)
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json() == {
        "error": {
            "message": "the API key is missing or not valid",
            "type": "authentication_error",
            "param": None,
            "code": "invalid_api_key",
        }
    }
    assert provider.calls == []


async def test_a_stranger_learns_nothing_of_what_cannot_be_read(gateway):
    unreadable = (b"{", b"", {"model": "test"}, b"[" * 9000)
    async with gateway(auth(models=["test"], endpoints=["embeddings"]), FakeProvider()) as g:
        strangers = [await g.request("POST", "/v1/chat/completions", body) for body in unreadable]
        known = await g.request("POST", "/v1/chat/completions", b"{", headers=bearer())
    assert {(answer.status, answer.json()["error"]["code"]) for answer in strangers} == {(401, "invalid_api_key")}
    assert (known.status, known.json()["error"]["code"]) == (400, "invalid_json")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"])
async def test_no_endpoint_answers_without_a_key(gateway, path):
    body = {"model": "test", "messages": [{"role": "user", "content": "hi"}], "prompt": "hi", "input": "hi"}
    async with gateway(auth(), FakeProvider()) as g:
        assert (await g.request("POST", path, body)).status == 401
        assert (await g.request("GET", "/v1/models")).status == 401
        assert (await g.request("GET", "/v1/models/test")).status == 401


async def test_a_key_may_be_given_as_its_digest(gateway):
    digest = hashlib.sha256(KEY.encode()).hexdigest()
    async with gateway((Auth, {"clients": [{"name": "a", "key_sha256": digest.upper()}]}), FakeProvider()) as g:
        assert (await g.chat(headers=bearer())).status == 200
        assert (await g.chat(headers=bearer(digest))).status == 401


async def test_a_key_resolves_to_one_client(gateway):
    recorder = Recorder()
    rights = {"team": "web", "project": "shop", "feature": "search", "tier": "gold", "tags": {"cost": "17"}}
    async with gateway(auth(**rights, expires="2100-01-01"), FakeProvider(), recorder) as g:
        await g.chat(headers=bearer())
    expires = datetime(2100, 1, 1, tzinfo=UTC).timestamp()
    assert recorder.last.client == Client(key_id="search", name="search", **rights, expires=expires)


async def test_a_key_ends_when_it_expires(gateway):
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    earlier = (datetime.now(UTC) - timedelta(seconds=1)).isoformat()
    async with gateway(auth(expires=later), FakeProvider()) as g:
        assert (await g.chat(headers=bearer())).status == 200
    async with gateway(auth(expires=earlier), FakeProvider()) as g:
        assert (await g.chat(headers=bearer())).json()["error"]["code"] == "invalid_api_key"


async def test_a_model_that_a_key_may_not_use_does_not_exist_for_it(gateway):
    async with gateway(auth(models=["test*"]), FakeProvider(), models=MODELS) as g:
        assert (await g.chat(model="test-large", headers=bearer())).status == 200
        hidden = await g.chat(model="other", headers=bearer())
        absent = await g.chat(model="absent", headers=bearer())
    assert hidden.status == absent.status == 404
    assert hidden.json()["error"]["code"] == "model_not_found"
    assert hidden.body.replace(b"other", b"absent") == absent.body


async def test_the_list_of_models_shows_what_the_key_may_use(gateway):
    async with gateway(auth(models=["test*"], endpoints=["chat"]), FakeProvider(), models=MODELS) as g:
        listed = await g.request("GET", "/v1/models", headers=bearer())
        other = await g.request("GET", "/v1/models/other", headers=bearer())
    assert [model["id"] for model in listed.json()["data"]] == ["test", "test-large"]
    assert other.status == 404


async def test_an_empty_list_of_models_allows_none(gateway):
    async with gateway(auth(models=[]), FakeProvider()) as g:
        assert (await g.chat(headers=bearer())).status == 404


async def test_an_endpoint_that_a_key_may_not_use_is_refused(gateway):
    async with gateway(auth(endpoints=["embeddings"]), FakeProvider()) as g:
        answer = await g.chat(headers=bearer())
        assert (await g.request("POST", "/v1/embeddings", EMBED, headers=bearer())).status == 200
    assert answer.status == 403
    assert answer.json()["error"]["code"] == "endpoint_not_allowed"


ATTRIBUTION = {"x-junctor-feature": "summary", "x-junctor-project": "docs", "x-junctor-end-user": "u-1"}


async def _attributed(gateway, headers, fields, **client):
    recorder = Recorder()
    async with gateway(auth(**client), FakeProvider(), recorder) as g:
        answer = await g.chat(headers=bearer(**headers), **fields)
    client = recorder.last.client
    return answer.status, (client.feature, client.project, client.end_user)


async def test_attribution_is_taken_where_the_key_allows_it(gateway):
    allowed = ["feature", "end_user"]
    _, told = await _attributed(gateway, ATTRIBUTION, {}, allow_attribution=allowed)
    assert told == ("summary", "", "u-1")


async def test_attribution_is_passed_over_where_the_key_does_not_allow_it(gateway):
    status, told = await _attributed(gateway, ATTRIBUTION, {"user": "u-2"})
    assert (status, told) == (200, ("", "", ""))


async def test_attribution_never_replaces_what_the_key_says(gateway):
    allowed = ["feature", "project", "end_user"]
    _, told = await _attributed(gateway, ATTRIBUTION, {}, allow_attribution=allowed, feature="search", project="shop")
    assert told == ("search", "shop", "u-1")


async def test_metadata_and_user_of_the_body_attribute_too_and_a_header_beats_them(gateway):
    body = {"user": "u-3", "metadata": {"feature": "chat", "user_id": "u-4"}}
    allowed = ["feature", "end_user"]
    assert (await _attributed(gateway, {}, {"user": "u-3"}, allow_attribution=allowed))[1] == ("", "", "u-3")
    assert (await _attributed(gateway, {}, body, allow_attribution=allowed))[1] == ("chat", "", "u-4")
    assert (await _attributed(gateway, ATTRIBUTION, body, allow_attribution=allowed))[1] == ("summary", "", "u-1")


@pytest.mark.parametrize("value", ["a" * 129, "a\r\nb", "<b>", "ä", " a", "'; drop table keys"])
async def test_attribution_is_bounded_in_length_and_letters(gateway, value):
    allowed = {"allow_attribution": ["feature", "end_user"]}
    status, _ = await _attributed(gateway, {"x-junctor-feature": value}, {}, **allowed)
    assert status == 400
    assert await _attributed(gateway, {}, {"user": value}, **allowed) == (200, ("", "", ""))
    assert await _attributed(gateway, {}, {"user": ["x"], "metadata": [1]}, **allowed) == (200, ("", "", ""))


async def test_attribution_cannot_raise_a_right(gateway):
    recorder = Recorder()
    claims = {"x-junctor-team": "root", "x-junctor-tier": "gold", "x-junctor-models": "other"}
    metadata = {"team": "root", "tier": "gold", "models": "other", "key_id": "root"}
    allowed = auth(models=["test"], team="web", allow_attribution=["feature", "project", "end_user"])
    async with gateway(allowed, FakeProvider(), recorder, models=MODELS) as g:
        await g.chat(headers=bearer(**claims), metadata=metadata)
        assert (await g.chat(model="other", headers=bearer(**claims))).status == 404
    client = recorder.ended[0][0].client
    assert (client.team, client.tier, client.key_id, client.models) == ("web", "", "search", frozenset({"test"}))


async def test_credentials_are_gone_once_they_are_read(gateway):
    recorder = Recorder()
    headers = bearer(**{"x-api-key": KEY, "x-goog-api-key": KEY, "cookie": "session=1", "x-tag": "kept"})
    async with gateway(auth(), FakeProvider(), recorder) as g:
        await g.chat(headers=headers)
        await g.chat(headers=bearer("an-unknown-key-01234"))
    for exchange, _, _ in recorder.ended:
        assert not {"authorization", "x-api-key", "x-goog-api-key", "cookie"} & exchange.request.headers.keys()
    assert recorder.ended[0][0].request.headers["x-tag"] == "kept"


class AsksItself:
    """Asks a question of the gateway's own within a request."""

    def __init__(self, settings, gateway):
        self.gateway = gateway

    @hookimpl
    async def route(self, exchange):
        if not exchange.purpose:
            body = {"model": "test", "messages": [{"role": "user", "content": "judge"}]}
            await self.gateway.ask("chat", body, purpose="judge", parent=exchange)


async def test_the_gateways_own_requests_pass(gateway):
    provider = FakeProvider()
    async with gateway(auth(), AsksItself, provider) as g:
        assert (await g.chat(headers=bearer())).status == 200
    assert len(provider.calls) == 2


async def test_without_clients_everyone_passes_and_the_gateway_knows_that_nobody_is_known(gateway):
    async with gateway((Auth, {}), FakeProvider()) as g:
        assert (await g.chat()).status == 200
        assert not g.gateway.authenticates
    async with gateway(auth(), FakeProvider()) as g:
        assert g.gateway.authenticates


CONFIG = """
server: {{host: "{host}"}}
models: [{{name: test, targets: [{{target: openai/m}}]}}]
plugins: {plugins}
"""


async def _problems(gateway, plugins, host="127.0.0.1"):
    with pytest.raises(ConfigError) as error:
        async with gateway(config=CONFIG.format(host=host, plugins=plugins)):
            pass
    return str(error.value)


async def test_a_mistake_in_the_section_is_told_with_its_place_and_without_the_key(gateway):
    told = await _problems(gateway, "[auth: {clients: [{name: a, key: short-secret}, {name: b}]}, relay]")
    assert "auth" in told
    assert "clients[0].key" in told
    assert "clients[1]: give key" in told
    assert "short-secret" not in told


async def test_a_name_given_twice_is_a_mistake(gateway):
    clients = f"{{name: a, key: {KEY}}}, {{name: a, key: {KEY}2}}"
    assert "clients: 'a' is given twice" in await _problems(gateway, f"[auth: {{clients: [{clients}]}}, relay]")


async def test_a_model_that_is_not_there_is_a_mistake(gateway):
    told = await _problems(gateway, f"[auth: {{clients: [{{name: a, key: {KEY}, models: [tset]}}]}}, relay]")
    assert "clients[0].models[0]: no model is named 'tset'; did you mean 'test'?" in told


class Counts:
    """Acts for a client before a target is chosen."""

    @hookimpl
    async def pre_route(self, exchange):
        pass


async def test_auth_must_come_before_what_refuses_or_counts(gateway):
    with pytest.raises(ConfigError, match="is listed after 'counts', which would act for clients that nobody knows"):
        async with gateway(Counts(), auth(), FakeProvider()):
            pass
    async with gateway(auth(), Counts(), FakeProvider()) as g:
        assert (await g.chat(headers=bearer())).status == 200


async def test_two_clients_with_the_same_key_are_a_mistake(gateway):
    clients = f"{{name: a, key: {KEY}}}, {{name: b, key: {KEY}}}"
    told = await _problems(gateway, f"[auth: {{clients: [{clients}]}}, relay]")
    assert "clients[1]: has the same key as 'a'" in told
    assert KEY not in told
