"""Sinks of others come through the entry-point group; two gateways of one process live side by side."""

import pytest
from junctor.testing import FakeProvider

MODULE = """
from pydantic import BaseModel

class Settings(BaseModel):
    path: str

class Tally:
    Settings = Settings
    wants_content = False

    def __init__(self, settings, context):
        self.path, self.label = settings.path, context.label

    def open(self):
        self.file = open(self.path, "a")

    def write(self, batch, *, again):
        for entry in batch:
            print(self.label, entry.record.outcome, entry.record.cost.total, file=self.file)

    def close(self):
        self.file.close()
"""


@pytest.fixture
def tally(tmp_path, monkeypatch):
    """An installed distribution with a sink `tally`."""
    (tmp_path / "tally_sink.py").write_text(MODULE)
    facts = tmp_path / "tally_sink-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: tally-sink\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[junctor.logging.sinks]\ntally = tally_sink:Tally\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path / "tally.txt"


async def test_a_sink_of_others_gets_typed_records(logged, tally):
    async with logged(FakeProvider(), settings={"sinks": [{"tally": {"path": str(tally)}}]}) as g:
        await g.chat()
        await g.chat(model="nobody")
    assert tally.read_text().splitlines() == ["tally answered 17000", "tally refused 0"]


async def test_a_reloaded_gateway_and_the_one_it_replaces_write_side_by_side(logged, log):
    async with logged(FakeProvider()) as old, logged(FakeProvider()) as new:
        for _ in range(20):
            await old.chat()
            await new.chat()
    assert len(log.lines) == len({record["record"] for record in log.records}) == 40
