"""What the tests of several modules need: a store's settings, for SQLite and for PostgreSQL."""

from __future__ import annotations

import pytest
from junctor_auth.settings import StoreSettings
from junctor_auth.store import KeyStore

PEPPER = "pepper-of-the-tests-0123456789abcdef"
ENCRYPTION = "encryption-of-the-tests-0123456789ab"


@pytest.fixture
def sqlite_store(tmp_path):
    """The settings of an SQLite store, whose pepper lies beside it."""
    return {"url": f"sqlite:///{tmp_path / 'keys.sqlite'}", "encryption_key": ENCRYPTION}


@pytest.fixture(params=["sqlite", "postgresql"])
def store_settings(request):
    """The settings of a store, in each database. PostgreSQL's tables are of this run's own database."""
    if request.param == "sqlite":
        return request.getfixturevalue("sqlite_store")
    url = request.getfixturevalue("postgres_url")
    return {"url": url, "pepper": PEPPER, "encryption_key": ENCRYPTION}


@pytest.fixture
def opened():
    """A factory: a store that is open until the end of the test."""
    stores = []

    def open_store(settings):
        stores.append(KeyStore(StoreSettings.model_validate(settings)))
        stores[-1].prepare()
        return stores[-1]

    yield open_store
    for store in stores:
        store.close()
