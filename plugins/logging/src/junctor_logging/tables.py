"""The ledger's tables. What they are now; how they came about is in `migrations/`."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Float, Index, Integer, MetaData, String, Table, Text

__all__ = ["HEAD", "METADATA", "contents", "exchanges", "lines", "prices"]

HEAD = "0001"
"""The newest migration; a test compares it with the folder."""

METADATA = MetaData()

exchanges = Table(
    "exchanges",
    METADATA,
    Column("record", String(64), primary_key=True),
    Column("id", String(128), nullable=False),
    Column("time", BigInteger, nullable=False),
    Column("purpose", String(64), nullable=False),
    Column("team", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("status", Integer, nullable=False),
    Column("story", Text, nullable=False),
    Index("exchanges_id", "id"),
    Index("exchanges_time", "time"),
)

lines = Table(
    "lines",
    METADATA,
    Column("record", String(64), primary_key=True),
    Column("line", Integer, primary_key=True),
    Column("time", BigInteger, nullable=False),
    Column("kind", String(16), nullable=False),
    Column("requests", Integer, nullable=False),
    Column("purpose", String(64), nullable=False),
    Column("team", Text, nullable=False),
    Column("project", Text, nullable=False),
    Column("feature", Text, nullable=False),
    Column("key", Text, nullable=False),
    Column("client", Text, nullable=False),
    Column("end_user", Text, nullable=False),
    Column("tags", Text, nullable=True),
    Column("model", Text, nullable=False),
    Column("provider", Text, nullable=False),
    Column("target", Text, nullable=False),
    Column("provider_key", Text, nullable=False),
    Column("answered_model", Text, nullable=False),
    Column("outcome", String(16), nullable=False),
    Column("abandoned", Integer, nullable=False),
    Column("estimated", Integer, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("cache_read_tokens", BigInteger, nullable=False),
    Column("cache_write_tokens", BigInteger, nullable=False),
    Column("reasoning_tokens", BigInteger, nullable=False),
    Column("cost", BigInteger, nullable=True),
    Column("billed", BigInteger, nullable=True),
    Column("input_cost", BigInteger, nullable=False),
    Column("output_cost", BigInteger, nullable=False),
    Column("cache_read_cost", BigInteger, nullable=False),
    Column("cache_write_cost", BigInteger, nullable=False),
    Column("saved", BigInteger, nullable=False),
    Column("unpriced", Integer, nullable=False),
    Column("price", String(12), nullable=True),
    Index("lines_time", "time"),
)

prices = Table(
    "prices",
    METADATA,
    Column("id", String(12), primary_key=True),
    Column("source", Text, nullable=False),
    Column("input", BigInteger, nullable=False),
    Column("output", BigInteger, nullable=False),
    Column("cache_read", BigInteger, nullable=True),
    Column("cache_write", BigInteger, nullable=True),
    Column("above_tokens", BigInteger, nullable=True),
    Column("discount", Float, nullable=False),
)

contents = Table(
    "contents",
    METADATA,
    Column("record", String(64), primary_key=True),
    Column("expires", BigInteger, nullable=False),
    Column("content", Text, nullable=False),
    Index("contents_expires", "expires"),
)
