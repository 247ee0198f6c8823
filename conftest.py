"""What all tests of this repository share."""

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Junctor runs on asyncio; a package that brings trio along does not change that."""
    return "asyncio"
