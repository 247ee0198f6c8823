"""Who may see the page: login, cookie, policy, logout, and that nothing else opens with it."""

import asyncio
import re
import time
import urllib.parse

import pytest
from junctor.testing import FakeProvider
from junctor_dashboard import Dashboard
from junctor_dashboard.session import Sessions

KEY = "the-admin-key-of-this-test"
CONFIG = f'{{"admin": {{"key": "{KEY}"}}, "models": [{{"name": "test", "targets": [{{"target": "fake/one"}}]}}]}}'
SAME = {"origin": "http://gateway.test", "host": "gateway.test"}


@pytest.fixture
def served(gateway):
    return lambda config=CONFIG, **settings: gateway((Dashboard, settings), FakeProvider(), config=config)


async def login(g, key=KEY, headers=SAME):
    return await g.request("POST", "/dashboard/login", urllib.parse.urlencode({"key": key}).encode(), headers=headers)


async def cookie_of(g):
    answer = await login(g)
    return {"cookie": answer.headers["set-cookie"].split(";")[0]}


async def test_the_right_key_gives_a_cookie_for_these_paths_only(served):
    async with served() as g:
        answer = await login(g)
        cookie = answer.headers["set-cookie"].lower()
        page = await g.request("GET", "/dashboard", headers=await cookie_of(g))
        health = await g.request("GET", "/admin/anything", headers=await cookie_of(g))
    assert (answer.status, answer.headers["location"]) == (303, "/dashboard")
    assert {"httponly", "samesite=strict", "path=/dashboard"} <= set(cookie.split("; "))
    assert "secure" not in cookie
    assert (page.status, health.status) == (200, 404)


async def test_the_cookie_does_not_open_admin_paths(gateway, tmp_path):
    Logging = pytest.importorskip("junctor_logging").Logging

    logging = (Logging, {"directory": str(tmp_path)})
    async with gateway((Dashboard, {}), logging, FakeProvider(), config=CONFIG) as g:
        cookie = await cookie_of(g)
        assert (await g.request("GET", "/admin/exchanges", headers=cookie)).status == 401


async def test_behind_tls_the_cookie_is_secure(served):
    async with served(secure_cookie=True) as g:
        assert "secure" in (await login(g)).headers["set-cookie"].lower()


@pytest.mark.parametrize("key", ["", "wrong", KEY + "x", KEY[:-1], "\udcff"])
async def test_a_wrong_key_is_refused(served, key):
    async with served() as g:
        body = urllib.parse.urlencode({"key": key}, errors="replace").encode()
        answer = await g.request("POST", "/dashboard/login", body, headers=SAME)
    assert answer.status == 401
    assert "set-cookie" not in answer.headers
    assert b"not the admin key" in answer.body


async def test_guesses_are_limited(served):
    async with served(login_attempts=3) as g:
        statuses = [(await login(g, "wrong")).status for _ in range(5)]
        right = await login(g)
    assert statuses == [401, 401, 401, 429, 429]
    assert (right.status, right.headers["retry-after"]) == (429, "60")


@pytest.mark.parametrize(
    "path", ["/dashboard/events", "/dashboard/costs", "/dashboard/exchanges", "/dashboard/exchanges/x"]
)
async def test_without_a_login_nothing_is_told(served, path):
    async with served() as g:
        await g.chat()
        answer = await g.request("GET", path)
        forged = await g.request("GET", path, headers={"cookie": "junctor_dashboard=a.9999999999.b"})
        page = await g.request("GET", "/dashboard")
    assert (answer.status, forged.status) == (401, 401)
    assert (page.status, page.headers["location"]) == (303, "/dashboard/login")


async def test_every_answer_has_the_strict_policy(served):
    async with served() as g:
        for path in ("/dashboard", "/dashboard/login", "/dashboard/static/app.js", "/dashboard/costs"):
            policy = (await g.request("GET", path)).headers["content-security-policy"]
            assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'")
            assert "unsafe" not in policy


async def test_logging_out_ends_the_session_wherever_the_cookie_is(served):
    async with served() as g:
        cookie = await cookie_of(g)
        word = re.search(rb'name="csrf" value="(\w+)"', (await g.request("GET", "/dashboard", headers=cookie)).body)[1]
        forged = await g.request("POST", "/dashboard/logout", b"csrf=x", headers=cookie | SAME)
        still = await g.request("GET", "/dashboard", headers=cookie)
        out = await g.request("POST", "/dashboard/logout", b"csrf=" + word, headers=cookie | SAME)
        after = await g.request("GET", "/dashboard", headers=cookie)
    assert (forged.status, still.status, out.status, after.status) == (403, 200, 303, 303)


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.test", "host": "gateway.test"}, {"sec-fetch-site": "cross-site"}, {"origin": "null"}],
)
async def test_a_form_of_another_site_is_refused(served, headers):
    async with served() as g:
        assert (await login(g, headers=headers)).status == 403


async def test_without_an_admin_key_it_is_not_there_and_the_log_says_so(served, caplog):
    async with served('{"models": [{"name": "test", "targets": [{"target": "fake/one"}]}]}') as g:
        assert (await g.request("GET", "/dashboard")).status == 404
        assert (await g.chat()).status == 200
    assert "no /dashboard without an admin key" in caplog.text


@pytest.mark.parametrize("name", ["..%2fplugin.py", "plugin.py", "index.html", "nothing.js"])
async def test_only_the_pages_own_files_are_served(served, name):
    async with served() as g:
        assert (await g.request("GET", f"/dashboard/static/{name}")).status == 404


async def test_a_session_ends_by_itself(served):
    async with served() as g:
        short = Sessions(KEY, g.gateway.state, lifetime=1, attempts=1)
        _, cookie = short.begin()
        assert await short.of(cookie) is not None
        await asyncio.sleep(1.1)
        assert await short.of(cookie) is None
        assert await Sessions("another-admin-key", g.gateway.state, lifetime=9, attempts=1).of(short.begin()[1]) is None


async def test_a_stream_ends_with_the_session(served):
    async with served() as g:
        cookie = await cookie_of(g)
        page = (await g.request("GET", "/dashboard", headers=cookie)).body
        word = re.search(rb'name="csrf" value="(\w+)"', page)[1]
        stream = asyncio.create_task(g.request("GET", "/dashboard/events", headers=cookie))
        await asyncio.sleep(0.3)
        await g.request("POST", "/dashboard/logout", b"csrf=" + word, headers=cookie | SAME)
        began = time.monotonic()
        answer = await asyncio.wait_for(stream, 5)
    assert answer.body.endswith(b"event: over\ndata: {}\n\n")
    assert time.monotonic() - began < 4
