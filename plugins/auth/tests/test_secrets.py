"""Canaries: secrets that must come out nowhere, whatever happens to the request that held them."""

import logging
import time

import jwt
import pytest
from junctor import ErrorKind, ProviderError, hookimpl
from junctor.testing import FakeProvider, Recorder
from junctor_auth import Auth

KEY = "canary-client-key-0123456789"
OWN = "canary-own-key-0123456789"
SECRET = "canary-shared-secret-0123456789-0123"
MODELS = [{"name": "test", "targets": [{"target": "openai/m", "api_key": "canary-central-key"}]}]


class Broken:
    """Fails as code does that nobody thought of."""

    @hookimpl
    async def route(self, exchange):
        raise RuntimeError("broken")


class Shows:
    """Writes everything that can be written of an exchange."""

    def __init__(self):
        self.text = ""

    @hookimpl
    async def post_call(self, exchange, response, error):
        self.text += f"{exchange!r} {response!r} {error!r} {error} {exchange.facts}"


OUTCOMES = {
    "answered": [FakeProvider()],
    "failed": [FakeProvider(script=[ProviderError("down", kind=ErrorKind.AUTHENTICATION)])],
    "broken": [Broken(), FakeProvider()],
    "crashed": [FakeProvider(script=[RuntimeError("crash")])],
}


@pytest.mark.parametrize("others", OUTCOMES.values(), ids=OUTCOMES)
@pytest.mark.parametrize("key", [KEY, "canary-unknown-0123456789", "jct-0123456789ab-canary", "canary.canary.canary"])
async def test_no_secret_comes_out(gateway, sqlite_store, caplog, others, key):
    caplog.set_level(logging.DEBUG)
    clients = [{"name": "a", "key": KEY, "byok": "allowed", "allow_attribution": ["feature"]}]
    issuer = {"issuer": "https://i", "audience": "j", "algorithms": ["HS256"], "secret": SECRET}
    shows = Shows()
    plugin = (Auth, {"clients": clients, "store": sqlite_store, "jwt": issuer})
    headers = {"authorization": f"Bearer {key}", "x-junctor-provider-key": OWN, "cookie": "canary=1"}
    async with gateway(plugin, *others, shows, models=MODELS) as g:
        answer = await g.chat(headers=headers)
        refused = await g.chat(headers={**headers, "x-junctor-provider-key": OWN + " canary"})
        written = repr(g.gateway.plugins.by_name["auth"]._settings) + repr(g.gateway.config)
    seen = f"{answer.headers} {answer.body!r} {refused.headers} {refused.body!r} {caplog.text} {shows.text} {written}"
    assert "canary" not in seen


async def test_a_token_that_is_refused_is_not_logged(gateway, caplog):
    caplog.set_level(logging.DEBUG)
    issuer = {"issuer": "https://i", "audience": "j", "algorithms": ["HS256"], "secret": SECRET}
    claims = {"iss": "https://i", "aud": "j", "sub": "canary\n", "exp": int(time.time()) + 60, "email": "canary@x"}
    token = jwt.encode(claims, SECRET, "HS256")
    async with gateway((Auth, {"jwt": issuer}), FakeProvider(), Recorder()) as g:
        answer = await g.chat(headers={"authorization": f"Bearer {token}"})
    assert answer.status == 401
    assert "a token was refused" in caplog.text
    assert "canary" not in caplog.text
    assert token.split(".")[1] not in caplog.text
