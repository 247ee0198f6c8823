"""`/admin/keys`: what the operator can do over HTTP, and who else cannot."""

import asyncio
import json
import time
from contextlib import asynccontextmanager

import pytest
from junctor.testing import FakeProvider
from junctor_auth import Auth

ADMIN = "admin-key-of-the-tests"
AS_ADMIN = {"authorization": f"Bearer {ADMIN}"}
CONFIG = 'models: [{name: test, targets: [{target: "fake/one"}]}]\n'


@pytest.fixture
def admin(gateway, sqlite_store):
    """A factory: a gateway with a store, and `/admin/keys` under a key of its own."""

    @asynccontextmanager
    async def run(config=CONFIG, **settings):
        plugin = (Auth, {"store": sqlite_store, "admin_key": ADMIN, **settings})
        async with gateway(plugin, FakeProvider(), config=config) as g:
            yield g

    return run


async def _post(g, path, body=b"", method="POST"):
    answer = await g.request(method, path, body, headers=AS_ADMIN)
    return answer.status, answer.json()


async def _status(g, key):
    return (await g.chat(headers={"authorization": f"Bearer {key}"})).status


async def test_a_key_is_shown_once_and_works_at_once(admin):
    async with admin() as g:
        asked = {"name": "search", "team": "web", "models": ["test"], "expires_in": "1d"}
        status, made = await _post(g, "/admin/keys", asked)
        assert (status, await _status(g, made["key"])) == (201, 200)
        answer = await g.request("GET", "/admin/keys", headers=AS_ADMIN)
    (listed,) = answer.json()["data"]
    assert (listed["name"], listed["team"], listed["state"]) == ("search", "web", "active")
    assert listed["expires"] == pytest.approx(time.time() + 86400, abs=60)
    assert made["key"].startswith(listed["prefix"])
    assert made["key"][20:] not in answer.body.decode()
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize(("method", "path"), [("POST", "/{id}/revoke"), ("DELETE", "/{id}"), ("POST", "/{id}/expire")])
async def test_a_key_ends_at_once(admin, method, path):
    async with admin() as g:
        _, made = await _post(g, "/admin/keys", {"name": "a"})
        status, _ = await _post(g, "/admin/keys" + path.format(id=made["id"]), method=method)
        assert (status, await _status(g, made["key"])) == (200, 401)


async def test_a_key_is_rotated_with_a_grace(admin):
    async with admin() as g:
        _, made = await _post(g, "/admin/keys", {"name": "a"})
        _, rotated = await _post(g, f"/admin/keys/{made['id']}/rotate", {"grace": "1h"})
        assert [await _status(g, key["key"]) for key in (made, rotated)] == [200, 200]
        _, rotated = await _post(g, f"/admin/keys/{made['id']}/rotate")
        assert [await _status(g, key["key"]) for key in (made, rotated)] == [401, 200]


async def test_an_end_is_set_and_taken_away(admin):
    async with admin() as g:
        _, made = await _post(g, "/admin/keys", {"name": "a"})
        path = f"/admin/keys/{made['id']}/expire"
        assert (await _post(g, path, {"at": "2100-01-01"}))[1]["expires"] == 4102444800
        assert (await _post(g, path, {"within": "1h"}))[1]["expires"] == pytest.approx(time.time() + 3600, abs=60)
        assert (await _post(g, path, {"never": True}))[1]["expires"] is None


@pytest.mark.parametrize(
    "headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": "Bearer the-global-admin-key"}]
)
async def test_no_other_key_opens_it(admin, headers):
    async with admin(config=CONFIG + "admin: {key: the-global-admin-key}\n") as g:
        for method, path in (("GET", "/admin/keys"), ("POST", "/admin/keys"), ("DELETE", "/admin/keys/0123456789ab")):
            answer = await g.request(method, path, {"name": "a"}, headers=headers)
            assert (answer.status, answer.json()["error"]["code"]) == (401, "invalid_admin_key")
        assert (await g.request("GET", "/admin/keys", headers=AS_ADMIN)).json() == {"data": []}


async def test_a_client_key_does_not_open_it(admin):
    async with admin() as g:
        _, made = await _post(g, "/admin/keys", {"name": "a"})
        answer = await g.request("GET", "/admin/keys", headers={"authorization": f"Bearer {made['key']}"})
        assert answer.status == 401


async def test_without_an_admin_key_or_a_store_it_is_not_there(admin, gateway):
    async with admin(admin_key=None) as g:
        assert (await g.request("GET", "/admin/keys", headers=AS_ADMIN)).status == 404
    clients = [{"name": "a", "key": "key-of-the-file-01234"}]
    async with gateway((Auth, {"clients": clients, "admin_key": ADMIN}), FakeProvider()) as g:
        assert (await g.request("GET", "/admin/keys", headers=AS_ADMIN)).status == 404


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"{", "not JSON"),
        ({}, "name: is missing"),
        ({"name": "a", "modles": []}, "did you mean 'models'"),
        ({"name": "a", "expires": "soon"}, "expires"),
        ({"name": "a", "expires": "2100-01-01", "expires_in": 1}, "not both"),
        ({"name": "x" * 70_000}, "too large"),
        ([1], ""),
    ],
)
async def test_a_wrong_request_is_told(admin, body, told):
    async with admin() as g:
        status, answer = await _post(g, "/admin/keys", body)
    assert status in (400, 413)
    assert told in answer["error"]["message"]


@pytest.mark.parametrize("key_id", ["0123456789ab", "' OR '1'='1", "..%2f", "x" * 500])
async def test_a_key_that_is_not_there_is_not_found(admin, key_id):
    async with admin() as g:
        for method, path in (("GET", ""), ("POST", "/revoke"), ("POST", "/rotate"), ("POST", "/expire")):
            status, answer = await _post(g, f"/admin/keys/{key_id}{path}", method=method)
            assert (status, answer["error"]["code"]) == (404, "key_not_found")


async def test_a_teams_provider_key_is_kept_and_never_shown(admin):
    async with admin() as g:
        status, _ = await _post(g, "/admin/provider-keys/web/fake", {"key": "sk-canary-0123456789-tail"}, "PUT")
        answer = await g.request("GET", "/admin/provider-keys", headers=AS_ADMIN)
        removed, _ = await _post(g, "/admin/provider-keys/web/fake", method="DELETE")
        again, _ = await _post(g, "/admin/provider-keys/web/fake", method="DELETE")
    assert (status, removed, again) == (200, 200, 404)
    assert answer.json()["data"][0]["hint"] == "tail"
    assert "canary" not in answer.body.decode()


async def test_a_wrong_provider_key_is_told_without_it(admin):
    async with admin() as g:
        status, answer = await _post(g, "/admin/provider-keys/web/fake", {"key": "canary with spaces"}, "PUT")
    assert status == 400
    assert "canary" not in json.dumps(answer)


async def _over_http(port, method, path, headers, body=b""):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"{method} {path} HTTP/1.1", "host: x", "connection: close", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join(lines).encode() + b"\r\n\r\n" + body)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return int(answer.split(b" ")[1]), answer.partition(b"\r\n\r\n")[2]


async def test_it_can_have_a_port_of_its_own_which_workers_share(admin, caplog):
    caplog.set_level("INFO", "junctor.auth")
    async with admin(admin_port=0) as g:
        port = int(caplog.messages[-1].rsplit(":", 1)[1])
        status, body = await _over_http(port, "POST", "/admin/keys", AS_ADMIN, b'{"name": "a"}')
        assert (status, await _status(g, json.loads(body)["key"])) == (201, 200)
        assert (await g.request("GET", "/admin/keys", headers=AS_ADMIN)).status == 404
        async with admin(admin_port=port):
            assert (await _over_http(port, "GET", "/admin/keys", {}))[0] == 401
            assert (await _over_http(port, "GET", "/v1/models", AS_ADMIN))[0] == 404
            assert (await _over_http(port, "PATCH", "/admin/keys", AS_ADMIN))[0] == 405
    with pytest.raises(OSError):
        await _over_http(port, "GET", "/admin/keys", AS_ADMIN)
