"""The SQL ledger: its tables, its idempotence, its ends."""

import asyncio
import contextlib
import json
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from junctor import ConfigError
from junctor.testing import FakeProvider
from junctor_logging import Context, Rejected
from junctor_logging import database as module
from junctor_logging.database import address, connect, migrate
from junctor_logging.ledger import Ledger, LedgerSettings
from junctor_logging.record import from_line
from junctor_logging.tables import HEAD, METADATA
from sqlalchemy import inspect, text


async def until(condition, seconds=20.0):
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        await asyncio.sleep(0.01)


def entry(number, **fields):
    tokens = {"input": 3, "output": 2, "cache_read": 0, "cache_write": 0, "reasoning": 0, "estimated": False}
    cost = {"input": 30, "output": 20, "cache_read": 0, "cache_write": 0, "total": 50, "billed": 45}
    attempt = {"target": "fake/one", "provider": "fake", "kind": "first", "usage": tokens, "cost": cost}
    attempt["price"] = {"id": "p1", "source": "config", "input": 10, "output": 10, "discount": 0.1}
    data = {"record": f"r-{number}", "id": "x", "time": "2026-01-02T03:04:05Z", "attempts": [attempt], **fields}
    return from_line(json.dumps(data).encode())


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    return f"sqlite:///{tmp_path / 'ledger.db'}" if request.param == "sqlite" else request.getfixturevalue("postgres")


@pytest.fixture
def ledger(url, tmp_path):
    made = []

    def make(**settings):
        one = Ledger(LedgerSettings(url=url, **settings), Context(tmp_path, "ledger"))
        one.open()
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()


def ask(url, statement):
    engine = connect(address(url, Path()))
    with engine.connect() as connection:
        rows = [tuple(row) for row in connection.execute(text(statement))]
    engine.dispose()
    return rows


def test_a_record_is_there_once_however_often_it_is_written(ledger, url):
    one = ledger()
    one.write([entry(1), entry(2)], again=False)
    one.write([entry(2), entry(3)], again=True)
    assert ask(url, "select count(*), sum(cost), sum(billed), sum(requests) from lines") == [(3, 150, 135, 3)]
    assert ask(url, "select count(*) from exchanges") == [(3,)]
    assert ask(url, "select id, input, discount from prices") == [("p1", 10, 0.1)]


def test_a_text_that_the_database_cannot_hold_is_rejected_and_nothing_of_its_batch_stays(ledger, url):
    one = ledger()
    with pytest.raises(Rejected):
        one.write([entry(1), entry(2, team=None)], again=False)
    assert ask(url, "select count(*) from lines") == [(0,)]
    one.write([entry(1)], again=False)
    assert ask(url, "select count(*) from lines") == [(1,)]


def test_deletes_what_is_over_its_retention(ledger, url):
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    content = {"request": {"a": 1}, "response": None, "retention": 3600}
    one = ledger(retention="30d")
    one.write([entry(1, content=content), entry(2, time=now, content=content), entry(3, time=now)], again=False)
    assert ask(url, "select record from exchanges order by record") == [("r-2",), ("r-3",)]
    assert ask(url, "select record from lines order by record") == [("r-2",), ("r-3",)]
    assert ask(url, "select record from contents") == [("r-2",)]


def test_content_is_in_its_own_table_and_not_in_the_story(ledger, url):
    ledger().write(
        [entry(1, time="2099-01-01T00:00:00Z", content={"request": "the prompt", "retention": 60})], again=False
    )
    ((story,),) = ask(url, "select story from exchanges")
    assert "the prompt" not in story
    ((content,),) = ask(url, "select content from contents")
    assert json.loads(content)["request"] == "the prompt"


def test_the_migrations_make_what_the_code_expects(url):
    engine = connect(address(url, Path()))
    with engine.connect() as connection:
        migrate(connection)
        migrate(connection)
        found = inspect(connection)
        for table in METADATA.sorted_tables:
            columns = {column["name"]: column["nullable"] for column in found.get_columns(table.name)}
            assert columns == {column.name: column.nullable for column in table.columns}
            indexed = {index["name"] for index in found.get_indexes(table.name)}
            assert indexed == {index.name for index in table.indexes}
    engine.dispose()


def test_the_newest_migration_is_the_one_that_the_code_names():
    config = Config()
    config.set_main_option("script_location", str(Path(module.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


def test_can_be_taken_back(tmp_path):
    from alembic import command

    engine = connect(address(f"sqlite:///{tmp_path}/x.db", tmp_path))
    config = Config()
    config.set_main_option("script_location", str(Path(module.__file__).parent / "migrations"))
    with engine.connect() as connection:
        migrate(connection)
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
        connection.commit()
        assert inspect(connection).get_table_names() == ["alembic_version"]
    engine.dispose()


@pytest.mark.parametrize(("begun", "then"), [(None, 8192), (4096, 4096)])
def test_a_new_file_has_large_pages_and_an_old_one_keeps_its_own(tmp_path, begun, then):
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    if begun is not None:
        with contextlib.closing(sqlite3.connect(tmp_path / "ledger.db")) as old:
            old.executescript(f"pragma page_size={begun}; pragma journal_mode=wal; create table other (x)")
    one = Ledger(LedgerSettings(url=url), Context(tmp_path, "ledger"))
    one.open()
    one.write([entry(1)], again=False)
    one.close()
    assert ask(url, "pragma page_size") == [(then,)]
    assert ask(url, "select count(*) from lines") == [(1,)]


@pytest.mark.parametrize("url", ["nonsense", "mysql://u:secretpw@h/d", "postgresql://u:secret pw@@@h:port/d"])
def test_an_address_that_cannot_be_used_is_told_without_its_password(url, tmp_path):
    with pytest.raises(ConfigError) as caught:
        Ledger(LedgerSettings(url=url), Context(tmp_path, "ledger"))
    assert "secret" not in str(caught.value)


async def test_a_locked_database_neither_slows_a_request_nor_loses_a_record(logged, log):
    async with logged(FakeProvider(), settings={"sinks": ["ledger"]}) as g:
        await g.chat()
        await until(lambda: (log.folder / "ledger.db").exists() and stats(g)["written"] == 1)
        lock = sqlite3.connect(log.folder / "ledger.db", isolation_level=None)
        lock.execute("begin exclusive")
        started = time.monotonic()
        for _ in range(50):
            assert (await g.chat()).status == 200
        assert time.monotonic() - started < 2
        lock.execute("rollback")
        lock.close()
        await until(lambda: stats(g)["waiting"] == 0)
    assert len(log.lines) == 51


def stats(g):
    return g.gateway.plugins.by_name["logging"].stats()["sinks"]["ledger"]


async def test_a_killed_connection_and_a_dead_database_lose_nothing_and_double_nothing(logged, postgres):
    mine = "application_name = 'junctor' and datname = current_database()"
    kill = ["psql", "-q", "-d", postgres, "-c", f"select pg_terminate_backend(pid) from pg_stat_activity where {mine}"]
    async with logged(FakeProvider(), settings={"sinks": [{"ledger": {"url": postgres}}], "batch": 10}) as g:
        for number in range(300):
            await g.chat()
            if number % 50 == 25:
                await until(lambda: stats(g)["written"] > 0)
                subprocess.run(kill, check=True, capture_output=True)
        await until(lambda: stats(g)["waiting"] == 0)
        assert stats(g)["failures"] > 0
    assert ask(postgres, "select count(*), count(distinct record), sum(requests) from lines") == [(300, 300, 300)]


async def test_a_database_that_is_not_there_at_the_start_gets_everything_when_it_comes(logged, log):
    blocked = log.folder / "not" / "yet"
    blocked.parent.write_text("a file where a folder must be")
    settings = {"sinks": [{"ledger": {"url": f"sqlite:///{blocked}"}}]}
    async with logged(FakeProvider(), settings=settings) as g:
        for _ in range(5):
            await g.chat()
        await until(lambda: stats(g)["spooled"] == 5)
        blocked.parent.unlink()
        await until(lambda: stats(g)["waiting"] == 0)
    assert ask(f"sqlite:///{blocked}", "select count(*) from lines") == [(5,)]


async def test_what_the_process_could_not_write_comes_with_the_next_one(logged, log):
    blocked = log.folder / "not" / "yet"
    blocked.parent.write_text("x")
    settings = {"sinks": [{"ledger": {"url": f"sqlite:///{blocked}"}}], "close_timeout": 0.2}
    async with logged(FakeProvider(), settings=settings) as g:
        for _ in range(5):
            await g.chat()
    blocked.parent.unlink()
    async with logged(FakeProvider(), settings=settings) as g:
        await g.chat()
        await until(lambda: stats(g)["replayed"] == 5)
    assert ask(f"sqlite:///{blocked}", "select count(distinct record) from lines") == [(6,)]
