"""Clients for the tests, and the gateway on both stores."""

from __future__ import annotations

import json

import pytest
from junctor import Client, hookimpl
from junctor.testing import free_port
from junctor_quotas import Quotas


class Who:
    """Says who calls, as the auth plugin does: from headers."""

    @hookimpl
    async def pre_route(self, exchange):
        headers = exchange.request.headers
        team = headers.get("x-team", "search")
        exchange.client = Client(
            key_id=headers.get("x-key", f"key-{team}"),
            team=team,
            tier=headers.get("x-tier", ""),
            end_user=headers.get("x-user", ""),
        )


@pytest.fixture(params=["memory", "redis"])
def store(request, prefix):
    """The section `state` of a store that is this test's own."""
    if request.param == "memory":
        return {"url": "memory://"}
    return {"url": request.getfixturevalue("redis_url"), "prefix": prefix, "timeout": 1.0}


@pytest.fixture
def limited(gateway, store):
    """`async with limited(provider, limits=[…]) as g`: a gateway with these limits."""

    def run(*plugins, limits, price=None, state=None, models=None, **settings):
        target = {"target": "fake/one", **({"price": price} if price else {})}
        tree = {
            "state": state or store,
            "admin": {"key": "admin-key-0123456789"},
            "models": models or [{"name": "test", "targets": [target]}],
        }
        quotas = (Quotas, {"limits": limits, **settings})
        return gateway(Who(), quotas, *plugins, config=json.dumps(tree))

    return run


@pytest.fixture
def rows():
    """What `GET /admin/quotas` says, by the limit's name."""

    async def read(g):
        answer = await g.request("GET", "/admin/quotas", headers={"authorization": "Bearer admin-key-0123456789"})
        assert answer.status == 200, answer.body
        return {row["name"]: row for row in answer.json()}

    return read


@pytest.fixture
def free_store():
    """The section `state` of a store that is not there."""
    return {"url": f"redis://127.0.0.1:{free_port()}", "timeout": 0.1}
