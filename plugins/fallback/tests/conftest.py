"""A gateway with this plugin and the real relay in front of fault-making providers."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from junctor.testing import Recorder
from junctor_fallback import Fallback
from junctor_relay import Relay

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from junctor.faulty_server import FaultyServer
    from junctor.testing import Harness

QUICK = {"base": 0.01, "by_kind": {}, "max": 0.05}
"""A backoff that does not hold tests up."""


class World:
    """The running gateway, its plugin and what became of every exchange."""

    def __init__(self, harness: Harness, recorder: Recorder) -> None:
        self.harness = harness
        self.recorder = recorder
        self.chat = harness.chat
        self.request = harness.request
        self.plugin: Fallback = harness.gateway.plugins.by_name["fallback"]  # type: ignore[assignment]

    @property
    def attempts(self) -> list[Any]:
        return self.recorder.last.attempts

    def target(self, name: str) -> dict[str, Any]:
        """One target's line of the snapshot."""
        return next(line for line in self.plugin.snapshot() if name in (line["target"], line["key_id"]))


def target(server: FaultyServer, name: str, **more: Any) -> dict[str, Any]:
    return {"target": f"faulty/{name}", "base_url": server.url, **more}


@pytest.fixture
def world(gateway: Callable[..., Any]) -> Callable[..., Any]:
    """`async with world(one, two, …, settings={…}, timeouts={…})`: servers in the order of the targets, or targets."""

    @asynccontextmanager
    async def run(
        *servers: Any,
        settings: dict[str, Any] | None = None,
        timeouts: dict[str, Any] | None = None,
        models: Sequence[dict[str, Any]] | None = None,
        state: dict[str, Any] | None = None,
        **sections: Any,
    ) -> AsyncIterator[World]:
        async with AsyncExitStack() as stack:
            targets = []
            for number, given in enumerate(servers):
                if isinstance(given, dict):
                    targets.append(given)
                else:
                    started = given if given._server is not None else await stack.enter_async_context(given)
                    targets.append(target(started, ("one", "two", "three", "four")[number]))
            tree = {
                "models": models or [{"name": "test", "targets": targets, "timeouts": timeouts or {}}],
                **({"state": state} if state else {}),
                **sections,
            }
            recorder = Recorder()
            plugins = [(Fallback, {"backoff": QUICK, **(settings or {})}), Relay, recorder]
            yield World(await stack.enter_async_context(gateway(*plugins, config=json.dumps(tree))), recorder)

    return run
