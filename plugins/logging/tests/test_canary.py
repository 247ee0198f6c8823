"""Marked keys go through every path; nobody finds them in a sink, a log line or an error."""

import asyncio
import io
import json
import logging

import pytest
from junctor import Client, ErrorKind, ProviderError, Refused, hookimpl
from junctor.secrets import SafeFormatter, hide_in_log
from junctor.testing import FakeProvider
from junctor_logging import Logging

# One has the form of a key; the others are found because the configuration or the request holds them.
MARKED = {
    "client": "sk-canary-client-0001-abcdefgh",
    "odd client": "canary client words 0002",
    "provider": "canary provider words 0003",
    "header": "canary header words 0004",
    "byok": "sk-canary-byok-0005-abcdefgh",
    "admin": "canary admin words 0006 long",
    "database": "canary-database-0007",
}
HEADERS = {
    "authorization": f"Bearer {MARKED['client']}",
    "x-api-key": MARKED["odd client"].replace(" ", "-"),
    "x-provider-key": MARKED["byok"],
}
TARGET = {"target": "fake/one", "api_key": MARKED["provider"], "headers": {"x-org": MARKED["header"]}}


class Loose:
    """A plugin that is careless with what it sees: in facts, in refusals, in errors that it does not expect."""

    def __init__(self):
        self.how = ""

    @hookimpl
    async def pre_route(self, exchange):
        headers = exchange.request.headers
        exchange.client = Client(end_user=headers["x-provider-key"], tags={"key": headers["authorization"]})
        exchange.facts["debug"] = {"key": MARKED["provider"], "header": MARKED["header"]}
        if self.how == "refuse":
            raise Refused(f"no: {headers['authorization']} and {headers['x-api-key']}")
        if self.how == "crash":
            raise RuntimeError(f"crashed with {MARKED['provider']} and {headers['authorization']}")


def quoting(secret):
    return ProviderError(f"Incorrect API key provided: {secret}.", kind=ErrorKind.AUTHENTICATION, provider_status=401)


class Quoting(FakeProvider):
    """A provider that quotes the keys it was called with, at once, in a stream, and in an error that it did not map."""

    @hookimpl
    async def call(self, exchange, target):
        how = exchange.request.body.get("user")
        if how == "echo":
            raise quoting(f"{target.api_key} {target.headers['x-org']} {exchange.request.headers['x-provider-key']}")
        if how == "crash":
            raise ValueError(f"could not use {target.api_key} for {exchange.request.headers['authorization']}")
        return await super().call(exchange, target)

    async def _pieces(self, text, model, operation):
        async for piece in super()._pieces(text, model, operation):
            yield piece
            if b"break" in text.encode() and b"stop" not in piece:
                raise quoting(MARKED["provider"])


@pytest.fixture
def written():
    """The process's log, as `junctor` sets it up, with tracebacks."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(SafeFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.getLogger().addHandler(handler)
    yield out
    logging.getLogger().removeHandler(handler)


async def every_path(g, loose):
    answers = [
        await g.chat(headers=HEADERS),
        await g.chat(headers=HEADERS, stream=True),
        await g.chat(headers=HEADERS, user="echo"),
        await g.chat(headers=HEADERS, user="crash"),
        await g.chat(f"my key is {MARKED['client']}", headers=HEADERS, model=MARKED["client"]),
        await g.chat(headers=HEADERS, stream=True, hang_up_after=1),
        await g.request("GET", f"/v1/models/{MARKED['client']}", headers=HEADERS),
    ]
    for loose.how in ("refuse", "crash"):
        answers.append(await g.chat(headers=HEADERS))
    loose.how = ""
    return answers


async def test_no_marked_key_is_anywhere(gateway, log, written):
    database = f"postgresql://me:{MARKED['database']}@127.0.0.1:1/nowhere"
    sinks = ["ledger", {"json_lines": {"path": str(log.folder / "out.jsonl")}}, {"ledger": {"url": database}}]
    settings = {"directory": str(log.folder), "sinks": sinks, "flush": 0.02, "content": [{"redact": []}]}
    tree = {"admin": {"key": MARKED["admin"]}, "models": [{"name": "test", "targets": [TARGET]}]}
    loose = Loose()
    async with gateway((Logging, settings), loose, Quoting("break now"), config=json.dumps(tree)) as g:
        hide_in_log(g.gateway.config.secrets)
        answers = await every_path(g, loose)
        admin = {"authorization": f"Bearer {MARKED['admin']}"}
        while len(log.records) < 9:
            await asyncio.sleep(0.01)
        shown = await g.request("GET", "/admin/exchanges", headers=admin)
        assert len(shown.json()["exchanges"]) == 9
    texts = {
        "answers": b"".join(a.body for a in answers),
        "admin": shown.body,
        "log": written.getvalue().encode(),
        "sinks": log.everything,
    }
    assert "crashed with" in written.getvalue()
    for place, text in texts.items():
        for name, secret in MARKED.items():
            given = HEADERS["x-api-key"] if name == "odd client" else secret
            if place == "answers" and name in ("client", "odd client"):
                continue  # a client may be told what it sent itself
            assert given.encode() not in text, f"the {name} key is in the {place}"
