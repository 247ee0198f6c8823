"""HTTP in, HTTP out: what the client sees of bad requests, paths, headers and the admin's paths."""

import asyncio
import json

import pytest
from junctor import ErrorKind, ProviderError, Refused, hookimpl
from junctor.server import AdminRoute
from junctor.testing import FakeProvider, Recorder
from starlette.responses import JSONResponse

CHAT = "/v1/chat/completions"


@pytest.mark.parametrize(
    ("body", "code", "param"),
    [
        (b"{", "invalid_json", None),
        (b"[]", "invalid_json", None),
        (b'{"messages": [{"role": "user"}]}', "missing_required_parameter", "model"),
        (b'{"model": "test"}', "missing_required_parameter", "messages"),
        (b'{"model": "test", "messages": "hi"}', "invalid_type", "messages"),
        (b'{"model": "test", "messages": []}', "invalid_value", "messages"),
        (b'{"model": "test", "messages": ["hi"]}', "invalid_type", "messages[0]"),
        (b'{"model": "test", "messages": [{"content": "x"}]}', "missing_required_parameter", "messages[0].role"),
        (b'{"model": "test", "messages": [{"role": "user", "content": 5}]}', "invalid_type", "messages[0].content"),
        (b'{"model": "test", "messages": [{"role": "user"}], "stream": "yes"}', "invalid_type", "stream"),
    ],
)
async def test_a_malformed_request_is_400_and_names_the_field(gateway, body, code, param):
    async with gateway(FakeProvider()) as g:
        answer = await g.request("POST", CHAT, body)
    error = answer.json()["error"]
    assert answer.status == 400
    assert (error["type"], error["code"], error["param"]) == ("invalid_request_error", code, param)


@pytest.mark.parametrize("depth", [150, 5000])
async def test_json_that_is_nested_too_deep_is_400(gateway, depth):
    nested = "[" * depth + "]" * depth
    body = f'{{"model": "test", "messages": [{{"role": "user", "content": {nested}}}]}}'.encode()
    async with gateway(FakeProvider()) as g:
        answer = await g.request("POST", CHAT, body)
    assert answer.status == 400
    assert "nested too deep" in answer.json()["error"]["message"]


async def test_a_body_over_the_limit_is_413(gateway):
    config = "{server: {max_body: 1000}, models: [{name: test, targets: [{target: fake/one}]}]}"
    async with gateway(FakeProvider(), config=config) as g:
        answer = await g.chat("x" * 2000)
    assert (answer.status, answer.json()["error"]["code"]) == (413, "request_too_large")


async def test_a_body_without_a_declared_length_is_counted_as_it_arrives(gateway):
    config = "{server: {max_body: 1000}, models: [{name: test, targets: [{target: fake/one}]}]}"
    parts, sent = [b"x" * 600, b"x" * 600, b"x" * 600], []

    async def receive():
        return {"type": "http.request", "body": parts.pop(0), "more_body": True}

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": [], "root_path": "", "query_string": b""}
    async with gateway(FakeProvider(), config=config) as g:
        await g.app(scope, receive, send)
    assert sent[0]["status"] == 413
    assert len(parts) == 1


async def test_a_compressed_body_is_refused(gateway):
    async with gateway(FakeProvider()) as g:
        answer = await g.chat(headers={"content-encoding": "gzip"})
    assert (answer.status, answer.json()["error"]["code"]) == (415, "unsupported_encoding")


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/nowhere", 404), ("GET", CHAT, 405), ("PUT", "/v1/models", 405)]
)
async def test_unknown_paths_and_methods_are_json_errors(gateway, method, path, status):
    async with gateway(FakeProvider()) as g:
        answer = await g.request(method, path)
    assert answer.status == status
    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}


async def test_echoes_the_clients_request_id_and_makes_one_where_it_is_unfit(gateway):
    recorder = Recorder()
    async with gateway(FakeProvider(), recorder) as g:
        given = await g.chat(headers={"x-request-id": "abc-123"})
        unfit = await g.chat(headers={"x-request-id": "two words"})
    assert given.headers["x-request-id"] == "abc-123"
    assert len(unfit.headers["x-request-id"]) == 32
    assert [exchange.id for exchange, *_ in recorder.ended] == ["abc-123", unfit.headers["x-request-id"]]


async def test_ids_that_the_gateway_makes_sort_by_time(gateway):
    recorder = Recorder()
    async with gateway(FakeProvider(), recorder) as g:
        for _ in range(3):
            await g.chat()
            await asyncio.sleep(0.002)
    ids = [exchange.id for exchange, *_ in recorder.ended]
    assert ids == sorted(ids)
    assert len({one[12:] for one in ids}) == 3


async def test_parameters_that_the_gateway_does_not_know_reach_the_provider(gateway):
    provider = FakeProvider()
    async with gateway(provider) as g:
        await g.chat(some_new_parameter={"a": [1]}, api_base="http://elsewhere")
    assert provider.calls[0][1]["some_new_parameter"] == {"a": [1]}


async def test_lists_the_models_and_shows_one(gateway):
    async with gateway(FakeProvider()) as g:
        listed = await g.request("GET", "/v1/models")
        one = await g.request("GET", "/v1/models/test")
        none = await g.request("GET", "/v1/models/gpt")
    assert [model["id"] for model in listed.json()["data"]] == ["test"]
    assert one.json()["object"] == "model"
    assert (none.status, none.json()["error"]["code"]) == (404, "model_not_found")


class Refuser:
    @hookimpl
    async def pre_route(self, exchange):
        raise Refused("who are you?", status_code=401, code="invalid_api_key")


async def test_the_list_of_models_passes_pre_route_and_post_call(gateway):
    recorder = Recorder()
    async with gateway(Refuser(), recorder, FakeProvider()) as g:
        answer = await g.request("GET", "/v1/models")
    assert answer.status == 401
    assert recorder.last.request.operation == "models"


UNREADABLE = {
    "no JSON": (b"{", {}, 400),
    "no object": (b"[]", {}, 400),
    "no messages": ({"model": "test"}, {}, 400),
    "compressed": (b"{}", {"content-encoding": "gzip"}, 415),
    "too large": (b"{}", {"content-length": "99999999"}, 413),
}


@pytest.mark.parametrize(("body", "headers", "status"), UNREADABLE.values(), ids=UNREADABLE)
async def test_what_cannot_be_read_passes_pre_route_and_post_call(gateway, body, headers, status):
    recorder, stranger = Recorder(), Recorder()
    async with gateway(recorder, FakeProvider()) as g:
        answer = await g.request("POST", "/v1/chat/completions", body, headers=headers)
    async with gateway(Refuser(), stranger, FakeProvider()) as g:
        refused = await g.request("POST", "/v1/chat/completions", body, headers=headers)
    (exchange, response, error) = recorder.ended[0]
    assert (answer.status, response, error.status_code) == (status, None, status)
    assert (exchange.request.for_model, exchange.first_byte) == (False, 0.0)
    assert answer.headers["x-request-id"] == exchange.id
    assert refused.status == 401
    assert len(stranger.ended) == 1


async def test_a_model_with_a_slash_in_its_name_can_be_shown(gateway):
    async with gateway(FakeProvider(), models=[{"name": "org/model", "targets": [{"target": "fake/one"}]}]) as g:
        answer = await g.request("GET", "/v1/models/org/model")
    assert answer.json()["id"] == "org/model"


async def test_embeddings_and_completions_are_served(gateway):
    async with gateway(FakeProvider("done")) as g:
        vectors = await g.request("POST", "/v1/embeddings", {"model": "test", "input": ["a", "bb"]})
        text = await g.request("POST", "/v1/completions", {"model": "test", "prompt": "say"})
        streamed = await g.request("POST", "/v1/completions", {"model": "test", "prompt": "say", "stream": True})
    assert len(vectors.json()["data"]) == 2
    assert text.json()["choices"][0]["text"] == "done"
    assert streamed.events[-1] == "[DONE]"


async def test_the_usage_chunk_comes_only_when_the_client_asked(gateway):
    async with gateway(FakeProvider()) as g:
        silent = await g.chat(stream=True)
        asked = await g.chat(stream=True, stream_options={"include_usage": True})
    assert not any(event.get("usage") for event in silent.events[:-1])
    assert asked.events[-2]["usage"]["total_tokens"] == 12


async def test_retry_after_is_sent_in_both_forms(gateway):
    error = ProviderError("slow down", kind=ErrorKind.RATE_LIMITED, retry_after=1.5)
    async with gateway(FakeProvider(script=[error])) as g:
        answer = await g.chat()
    assert answer.status == 429
    assert (answer.headers["retry-after"], answer.headers["retry-after-ms"]) == ("2", "1500")


async def test_a_providers_401_is_not_the_clients(gateway):
    error = ProviderError("bad key", kind=ErrorKind.AUTHENTICATION, provider_status=401)
    async with gateway(FakeProvider(script=[error])) as g:
        answer = await g.chat()
    assert answer.status == 502


async def test_health_says_when_the_gateway_goes_down(gateway):
    async with gateway(FakeProvider()) as g:
        assert (await g.request("GET", "/health/ready")).status == 200
        g.app.ready = False
        assert (await g.request("GET", "/health/ready")).status == 503
        assert (await g.request("GET", "/health/live")).status == 200


class Operator:
    @hookimpl
    def http_routes(self):
        async def show(request):
            return JSONResponse({"secret": True})

        return [AdminRoute("/admin/thing", show)]


@pytest.mark.parametrize(
    ("header", "status"), [("Bearer an-admin-key-of-16", 200), ("Bearer wrong", 401), ("", 401), ("Basic eA==", 401)]
)
async def test_an_admin_path_asks_for_the_admin_key(gateway, header, status):
    config = "{admin: {key: an-admin-key-of-16}, models: [{name: test, targets: [{target: fake/one}]}]}"
    async with gateway(Operator(), FakeProvider(), config=config) as g:
        answer = await g.request("GET", "/admin/thing", headers={"authorization": header})
    assert answer.status == status


async def test_without_an_admin_key_there_are_no_admin_paths(gateway):
    async with gateway(Operator(), FakeProvider()) as g:
        assert (await g.request("GET", "/admin/thing")).status == 404


async def test_sends_a_comment_into_silence_when_configured(gateway):
    config = "{server: {keep_alive_comment: 20ms}, models: [{name: test, targets: [{target: fake/one}]}]}"
    async with gateway(FakeProvider("a b", chunk_delay=0.1), config=config) as g:
        answer = await g.chat(stream=True)
    assert b": keep-alive\n\n" in answer.chunks
    assert answer.text == "a b"


async def test_a_gateway_that_goes_down_ends_running_exchanges_with_a_typed_error(gateway):
    recorder = Recorder()
    async with gateway(FakeProvider("a b c", chunk_delay=5), recorder) as g:
        streaming = asyncio.create_task(g.chat(stream=True))
        await asyncio.sleep(0.1)
        assert g.app.running == 1
        g.app.end_exchanges()
        answer = await asyncio.wait_for(streaming, 5)
    assert answer.events[-1]["error"]["code"] == "shutting_down"
    assert len(recorder.ended) == 1


async def test_lone_surrogates_and_unicode_pass_in_both_directions(gateway):
    provider = FakeProvider("é 中 🎉")
    body = b'{"model": "test", "messages": [{"role": "user", "content": "cut \\ud83c"}], "stream": true}'
    async with gateway(provider) as g:
        answer = await g.request("POST", CHAT, body)
    assert answer.text == "é 中 🎉"
    assert json.dumps(provider.calls[0][1]["messages"][0]["content"]) == '"cut \\ud83c"'
