"""Tokens: those that hold, what they stand for, and every way in which one does not."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
import warnings

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from junctor import ConfigError
from junctor.testing import FakeProvider, Recorder
from junctor_auth import Auth
from junctor_auth.settings import JWTSettings

ISSUER = "https://issuer.example"
SECRET = "a-shared-secret-of-the-tests-0123456789-0123456789-0123456789-012"
RSA = rsa.generate_private_key(65537, 2048)
OTHER_RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
PRIVATE = {"RS256": RSA, "PS256": RSA, "ES256": EC, "EdDSA": ED, "HS256": SECRET, "HS512": SECRET}


def token(algorithm="RS256", key=None, kid=None, headers=None, **claims):
    given = {"iss": ISSUER, "aud": "junctor", "sub": "alice", "exp": int(time.time()) + 600, **claims}
    given = {name: value for name, value in given.items() if value is not None}
    headers = {**({"kid": kid} if kid else {}), **(headers or {})}
    return jwt.encode(given, key or PRIVATE[algorithm], algorithm, headers=headers)


def pem(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.fixture
def issuer(tmp_path):
    """A factory: the plugin with one issuer, whose key is a PEM file (or a shared secret, for HS…)."""

    def configured(algorithm="RS256", **settings):
        if algorithm.startswith("HS"):
            settings["secret"] = SECRET
        elif not {"jwks_url", "jwks_file"} & settings.keys():
            (tmp_path / "key.pem").write_bytes(pem(PRIVATE[algorithm]))
            settings["public_key"] = str(tmp_path / "key.pem")
        given = {"issuer": ISSUER, "audience": "junctor", "algorithms": [algorithm], **settings}
        return (Auth, {"jwt": given})

    return configured


async def _status(g, given):
    return (await g.chat(headers={"authorization": f"Bearer {given}"})).status


async def _client(gateway, plugin, given, status=200):
    recorder = Recorder()
    async with gateway(plugin, FakeProvider(), recorder) as g:
        assert await _status(g, given) == status
    return recorder.last.client


@pytest.mark.parametrize("algorithm", PRIVATE)
async def test_a_token_holds_with_each_algorithm(gateway, issuer, algorithm):
    client = await _client(gateway, issuer(algorithm), token(algorithm))
    assert (client.key_id, client.name) == ("jwt:alice", "alice")


async def test_claims_say_who_it_is(gateway, issuer):
    names = {"team": "https://example/team", "project": "org.project", "tier": "tier", "end_user": "sub"}
    claims = {"https://example/team": "web", "org": {"project": "shop"}, "tier": "gold"}
    client = await _client(gateway, issuer(claims=names, tags={"cost": "17"}), token(**claims))
    assert (client.team, client.project, client.tier, client.end_user) == ("web", "shop", "gold", "alice")
    assert client.tags == {"cost": "17"}


async def test_models_of_a_token_stay_within_those_of_the_settings(gateway, issuer):
    models = [{"name": name, "targets": [{"target": "fake/one"}]} for name in ("test", "b", "c")]
    recorder = Recorder()
    plugin = issuer(models=["test", "b"], claims={"models": "models"})
    async with gateway(plugin, FakeProvider(), recorder, models=models) as g:
        for listed in (["test", "c"], "test c unknown", None):
            await _status(g, token(models=listed))
    allowed = [exchange.client.models for exchange, _, _ in recorder.ended]
    assert allowed == [{"test"}, {"test"}, {"test", "b"}]


@pytest.mark.parametrize("claim", ["team", "project", "tier", "models", "endpoints"])
async def test_a_token_without_a_claim_that_gives_a_right_does_not_hold(gateway, issuer, claim):
    plugin = issuer(claims={claim: claim})
    await _client(gateway, plugin, token(**{claim: "chat"}), 404 if claim == "models" else 200)
    await _client(gateway, plugin, token(), 401)


NOW = time.time
BAD = {
    "expired": lambda: token(exp=int(NOW()) - 60),
    "without an end": lambda: token(exp=None),
    "not valid yet": lambda: token(nbf=int(NOW()) + 60),
    "of another issuer": lambda: token(iss="https://evil.example"),
    "without an issuer": lambda: token(iss=None),
    "for another audience": lambda: token(aud="other"),
    "without an audience": lambda: token(aud=None),
    "without a subject": lambda: token(sub=None),
    "with a subject that is no name": lambda: token(sub="a\nb"),
    "signed by another": lambda: token(key=OTHER_RSA),
    "without a required claim": lambda: token(jti=None),
    "of an algorithm not allowed": lambda: token("PS256"),
    "with an extension": lambda: token(headers={"crit": ["b64"], "b64": False}),
    "with an endless end": lambda: _forged({"alg": "RS256"}, {"exp": float("inf")}),
}


def _forged(header, claims, sign=lambda data: b""):
    claims = {"iss": ISSUER, "aud": "junctor", "sub": "alice", "exp": int(NOW()) + 600, "jti": "1", **claims}
    data = b".".join(_b64(json.dumps(part).encode()) for part in (header, claims))
    return (data + b"." + _b64(sign(data))).decode()


def _b64(data):
    return base64.urlsafe_b64encode(data).rstrip(b"=")


@pytest.mark.parametrize("make", BAD.values(), ids=BAD)
async def test_a_token_that_does_not_hold_gets_the_constant_401(gateway, issuer, make):
    plugin = issuer(required=["jti"])
    async with gateway(plugin, FakeProvider()) as g:
        assert await _status(g, token(jti="1")) == 200
        answer = await g.chat(headers={"authorization": f"Bearer {make()}"})
    assert (answer.status, answer.json()["error"]["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", "", None, ["RS256"], "HS256"])
async def test_an_unsigned_token_does_not_hold(gateway, issuer, algorithm):
    async with gateway(issuer(), FakeProvider()) as g:
        assert await _status(g, _forged({"alg": algorithm}, {})) == 401


@pytest.mark.parametrize("algorithms", [["RS256"], ["RS256", "ES256"]])
async def test_a_public_key_is_not_taken_for_a_shared_secret(gateway, issuer, algorithms):
    forged = _forged({"alg": "HS256"}, {}, lambda data: hmac.new(pem(RSA), data, hashlib.sha256).digest())
    async with gateway(issuer(algorithms=algorithms), FakeProvider()) as g:
        assert await _status(g, forged) == 401


@pytest.mark.parametrize(
    "settings",
    [
        {"jwks_url": "https://a/b", "algorithms": ["HS256"]},
        {"jwks_url": "https://a/b", "algorithms": ["RS256", "HS256"]},
        {"secret": SECRET, "algorithms": ["RS256"]},
        {"secret": SECRET[:40], "algorithms": ["HS512"]},
        {"jwks_url": "https://a/b", "algorithms": ["none"]},
        {"jwks_url": "http://issuer.example/keys"},
        {"jwks_url": "https://a/b", "secret": SECRET},
        {},
    ],
)
def test_settings_that_mix_kinds_of_keys_are_a_mistake(settings):
    with pytest.raises(ValueError):
        JWTSettings.model_validate({"issuer": ISSUER, "audience": "junctor", **settings})


async def test_a_key_that_does_not_go_with_the_algorithm_ends_the_start(gateway, issuer):
    with pytest.raises(ConfigError, match="does not go with ES256"):
        async with gateway(issuer(algorithms=["ES256"]), FakeProvider()):
            pass


async def test_a_small_difference_of_clocks_is_forgiven(gateway, issuer):
    now = int(time.time())
    async with gateway(issuer(leeway="30s"), FakeProvider()) as g:
        assert await _status(g, token(exp=now - 20)) == 200
        assert await _status(g, token(nbf=now + 20)) == 200
        assert await _status(g, token(exp=now - 40)) == 401


async def test_a_token_that_is_remembered_ends_in_time_all_the_same(gateway, issuer):
    async with gateway(issuer(leeway=0), FakeProvider()) as g:
        given = token(exp=int(time.time()) + 1)
        assert await _status(g, given) == 200
        await asyncio.sleep(1.1)
        assert await _status(g, given) == 401


def jwk(key, kid, **more):
    public = jwt.get_algorithm_by_name(more.get("alg", "RS256")).to_jwk(key.public_key(), as_dict=True)
    return {**public, "kid": kid, "use": "sig", **more}


class Issuer:
    """Serves a key set on this machine."""

    def __init__(self, *keys):
        self.body = json.dumps({"keys": keys}).encode()
        self.status = 200
        self.asked = 0
        self.delay = 0.0

    def publish(self, *keys):
        self.body = json.dumps({"keys": keys}).encode()

    async def __aenter__(self):
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}/keys"
        return self

    async def __aexit__(self, *exc):
        self._server.close()
        await self._server.wait_closed()

    async def _answer(self, reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        await asyncio.sleep(self.delay)
        head = f"HTTP/1.1 {self.status} X\r\ncontent-length: {len(self.body)}\r\nconnection: close\r\n\r\n"
        writer.write(head.encode() + self.body)
        await writer.drain()
        writer.close()


async def test_a_new_key_of_the_issuer_is_taken_and_an_old_one_ends(gateway, issuer):
    async with Issuer(jwk(RSA, "1")) as server:
        async with gateway(issuer(jwks_url=server.url, min_refresh=0.1), FakeProvider()) as g:
            assert await _status(g, token(kid="1")) == 200
            server.publish(jwk(OTHER_RSA, "2"))
            await asyncio.sleep(0.15)
            assert await _status(g, token(key=OTHER_RSA, kid="2")) == 200
            assert await _status(g, token(kid="1")) == 401


async def test_invented_key_names_do_not_flood_the_issuer(gateway, issuer):
    async with Issuer(jwk(RSA, "1")) as server:
        async with gateway(issuer(jwks_url=server.url), FakeProvider()) as g:
            answers = await asyncio.gather(*(_status(g, token(kid=f"x{n}")) for n in range(50)))
            assert set(answers) == {401}
            assert server.asked == 1
            assert await _status(g, token(kid="1")) == 200


@pytest.mark.parametrize("broken", [(500, b"{}"), (200, b"<html>"), (200, b'{"keys": []}'), (302, b""), (200, b"[1]")])
async def test_an_issuer_that_fails_leaves_the_old_keys_in_force(gateway, issuer, broken):
    async with Issuer(jwk(RSA, "1")) as server:
        async with gateway(issuer(jwks_url=server.url, min_refresh=0.1), FakeProvider()) as g:
            server.status, server.body = broken
            await asyncio.sleep(0.15)
            assert await _status(g, token(kid="new")) == 401
            assert server.asked == 2
            assert await _status(g, token(kid="1")) == 200


async def test_keys_that_are_too_old_are_not_trusted(gateway, issuer):
    async with Issuer(jwk(RSA, "1")) as server:
        async with gateway(issuer(jwks_url=server.url, stale=0.2), FakeProvider()) as g:
            given = token(kid="1")
            assert await _status(g, given) == 200
            await asyncio.sleep(0.25)
            answer = await g.chat(headers={"authorization": f"Bearer {given}"})
    assert (answer.status, answer.json()["error"]["code"]) == (503, "auth_unavailable")


async def test_an_issuer_that_is_not_there_yet_stops_neither_the_start_nor_other_keys(gateway, issuer):
    async with Issuer() as server:
        url = server.url
    plugin, settings = issuer(jwks_url=url)
    settings["clients"] = [{"name": "a", "key": "key-of-the-file-01234"}]
    async with gateway((plugin, settings), FakeProvider()) as g:
        assert await _status(g, token(kid="1")) == 503
        assert await _status(g, "key-of-the-file-01234") == 200


async def test_a_slow_issuer_holds_up_nobody_else(gateway, issuer):
    async with Issuer(jwk(RSA, "1")) as server:
        async with gateway(issuer(jwks_url=server.url, min_refresh=0.1), FakeProvider()) as g:
            server.delay = 1.0
            await asyncio.sleep(0.15)
            waiting = asyncio.create_task(_status(g, token(kid="2")))
            await asyncio.sleep(0.05)
            started = time.monotonic()
            assert await _status(g, token(kid="1")) == 200
            assert time.monotonic() - started < 0.5
            assert await waiting == 401


async def test_a_key_set_may_be_a_file(gateway, issuer, tmp_path):
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [jwk(RSA, "1"), jwk(EC, "2", alg="ES256"), jwk(ED, "3", alg="EdDSA")]}))
    async with gateway(issuer(jwks_file=str(file), algorithms=["RS256", "ES256", "EdDSA"]), FakeProvider()) as g:
        for algorithm, kid in (("RS256", "1"), ("ES256", "2"), ("EdDSA", "3")):
            assert await _status(g, token(algorithm, kid=kid)) == 200
        assert await _status(g, token("ES256", kid="1")) == 401
        assert await _status(g, token("RS256")) == 200  # one key only fits: no choice


WEAK = rsa.generate_private_key(65537, 1024)
UNFIT = {
    "for encryption": lambda: {**jwk(RSA, "1"), "use": "enc"},
    "for another algorithm": lambda: {**jwk(RSA, "1"), "alg": "RS512"},
    "a shared secret": lambda: {"kty": "oct", "k": _b64(SECRET.encode()).decode(), "kid": "1", "alg": "HS256"},
    "too short": lambda: jwk(WEAK, "1"),
    "damaged": lambda: {"kty": "RSA", "n": "!", "e": "AQAB", "kid": "1"},
}


@pytest.mark.parametrize("make", UNFIT.values(), ids=UNFIT)
async def test_a_key_that_is_not_fit_for_it_verifies_nothing(gateway, issuer, tmp_path, make):
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [make(), jwk(OTHER_RSA, "2")]}))
    key = WEAK if make is UNFIT["too short"] else RSA
    async with gateway(issuer(jwks_file=str(file)), FakeProvider()) as g:
        assert await _status(g, token(key=OTHER_RSA, kid="2")) == 200
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", jwt.warnings.InsecureKeyLengthWarning)
            given = token(key=key, kid="1")
        assert await _status(g, given) == 401


async def test_tokens_of_several_issuers_do_not_mix(gateway, tmp_path):
    issuers = []
    for name, key in (("one", RSA), ("two", OTHER_RSA)):
        (tmp_path / f"{name}.pem").write_bytes(pem(key))
        settings = {"name": name, "issuer": f"https://{name}", "audience": "junctor", "team": name}
        issuers.append({**settings, "public_key": str(tmp_path / f"{name}.pem")})
    recorder = Recorder()
    async with gateway((Auth, {"jwt": issuers}), FakeProvider(), recorder) as g:
        assert await _status(g, token(iss="https://one")) == 200
        assert await _status(g, token(iss="https://two", key=OTHER_RSA)) == 200
        assert await _status(g, token(iss="https://two")) == 401
    assert [exchange.client.key_id for exchange, _, _ in recorder.ended][:2] == ["one:alice", "two:alice"]


@pytest.mark.parametrize("given", ["a.b.c", "..", "eyJ.eyJ.", "e30.e30.e30", "a.b.c.d", "." * 5000, "é.è.ê"])
async def test_what_only_looks_like_a_token_gets_the_constant_401(gateway, issuer, given):
    async with gateway(issuer(), FakeProvider()) as g:
        assert await _status(g, given) == 401


async def test_a_deeply_nested_token_gets_the_constant_401(gateway, issuer):
    nested = b"[" * 5000 + b"]" * 5000
    async with gateway(issuer(), FakeProvider()) as g:
        assert await _status(g, (_b64(nested) + b"." + _b64(nested) + b".").decode()) == 401
