from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from junctor.assets import fetch
from junctor.errors import AssetError
from junctor.testing import require
from junctor_local.catalogue import CATALOGUE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager
    from pathlib import Path

    from junctor.testing import Harness

    Run = Callable[..., AbstractAsyncContextManager[Harness]]


@pytest.fixture(scope="session")
def model_file() -> Path:
    """SmolLM2, fetched once into the user's cache; without it (no network) the test is skipped, and says why."""
    try:
        return fetch(CATALOGUE["smollm2"].asset)
    except AssetError as error:
        require(None, str(error))
        raise


@pytest.fixture
def run(gateway: Callable[..., Any], model_file: Path) -> Run:
    """A gateway with the plugin: `run(targets={name: target}, **settings)`; the model `test` is `local/smollm2`."""

    @asynccontextmanager
    async def run(*plugins: object, targets: dict[str, str] | None = None, **settings: Any) -> AsyncIterator[Harness]:
        named = {"test": "local/smollm2"} if targets is None else targets
        models = [{"name": name, "targets": [{"target": target}]} for name, target in named.items()]
        config = json.dumps({"models": models, "plugins": [{"local": {"threads": 1, **settings}}]})
        async with gateway(*plugins, config=config) as harness:
            yield harness

    return run
