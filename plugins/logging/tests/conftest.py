"""A gateway that logs into a folder of its own, and ways to read what it wrote."""

import json
import sqlite3
import subprocess

import pytest
from junctor_logging import Logging

FAST = {"flush": 0.02, "spool": {"retry": 0.05, "longest_retry": 0.1}}
MODELS = [
    {
        "name": "test",
        "targets": [
            {"target": "fake/one", "price": {"input": 1, "output": 2}},
            {"target": "fake/two", "price": {"input": 10, "output": 20}},
        ],
    },
    {"name": "free", "targets": [{"target": "fake/three"}]},
]


class Log:
    """What the plugin wrote into a folder."""

    def __init__(self, folder):
        self.folder = folder

    @property
    def records(self):
        path = self.folder / "out.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    @property
    def record(self):
        (only,) = self.records
        return only

    def sql(self, statement):
        with sqlite3.connect(self.folder / "ledger.db") as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(statement)]

    @property
    def lines(self):
        return self.sql("select * from lines order by time, record, line")

    @property
    def everything(self):
        """All bytes of all files."""
        return b"".join(path.read_bytes() for path in self.folder.rglob("*") if path.is_file())


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path)


@pytest.fixture
def logged(gateway, tmp_path):
    """`async with logged(plugin, …, settings={…}) as g`: both sinks into the test's folder; models with prices."""

    def run(*plugins, settings=None, models=MODELS, config=""):
        both = ["ledger", {"json_lines": {"path": str(tmp_path / "out.jsonl")}}]
        given = {"directory": str(tmp_path), "sinks": both, **FAST, **(settings or {})}
        return gateway((Logging, given), *plugins, models=models, config=config)

    return run


@pytest.fixture
def postgres(postgres_url):
    """An empty database in PostgreSQL."""
    yield postgres_url
    reset = "set client_min_messages to error; drop schema public cascade; create schema public"
    subprocess.run(["psql", "-q", "-d", postgres_url, "-c", reset], check=True, capture_output=True)
