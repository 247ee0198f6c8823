"""Every test runs on asyncio, also where trio happens to be installed (anyio's own fixture would take both)."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"
