"""The first form of the ledger."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Create the tables."""
    _exchanges()
    _lines()
    _prices()
    _contents()


def _exchanges() -> None:
    op.create_table(
        "exchanges",
        sa.Column("record", sa.String(64), primary_key=True),
        sa.Column("id", sa.String(128), nullable=False),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("purpose", sa.String(64), nullable=False),
        sa.Column("team", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("status", sa.Integer, nullable=False),
        sa.Column("story", sa.Text, nullable=False),
    )
    op.create_index("exchanges_id", "exchanges", ["id"])
    op.create_index("exchanges_time", "exchanges", ["time"])


def _lines() -> None:
    op.create_table(
        "lines",
        sa.Column("record", sa.String(64), primary_key=True),
        sa.Column("line", sa.Integer, primary_key=True),
        sa.Column("time", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.String(16), nullable=False),
        sa.Column("requests", sa.Integer, nullable=False),
        sa.Column("purpose", sa.String(64), nullable=False),
        sa.Column("team", sa.Text, nullable=False),
        sa.Column("project", sa.Text, nullable=False),
        sa.Column("feature", sa.Text, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("client", sa.Text, nullable=False),
        sa.Column("end_user", sa.Text, nullable=False),
        sa.Column("tags", sa.Text, nullable=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("provider", sa.Text, nullable=False),
        sa.Column("target", sa.Text, nullable=False),
        sa.Column("provider_key", sa.Text, nullable=False),
        sa.Column("answered_model", sa.Text, nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("abandoned", sa.Integer, nullable=False),
        sa.Column("estimated", sa.Integer, nullable=False),
        sa.Column("input_tokens", sa.BigInteger, nullable=False),
        sa.Column("output_tokens", sa.BigInteger, nullable=False),
        sa.Column("cache_read_tokens", sa.BigInteger, nullable=False),
        sa.Column("cache_write_tokens", sa.BigInteger, nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger, nullable=False),
        sa.Column("cost", sa.BigInteger, nullable=True),
        sa.Column("billed", sa.BigInteger, nullable=True),
        sa.Column("input_cost", sa.BigInteger, nullable=False),
        sa.Column("output_cost", sa.BigInteger, nullable=False),
        sa.Column("cache_read_cost", sa.BigInteger, nullable=False),
        sa.Column("cache_write_cost", sa.BigInteger, nullable=False),
        sa.Column("saved", sa.BigInteger, nullable=False),
        sa.Column("unpriced", sa.Integer, nullable=False),
        sa.Column("price", sa.String(12), nullable=True),
    )
    op.create_index("lines_time", "lines", ["time"])


def _prices() -> None:
    op.create_table(
        "prices",
        sa.Column("id", sa.String(12), primary_key=True),
        sa.Column("source", sa.Text, nullable=False),
        sa.Column("input", sa.BigInteger, nullable=False),
        sa.Column("output", sa.BigInteger, nullable=False),
        sa.Column("cache_read", sa.BigInteger, nullable=True),
        sa.Column("cache_write", sa.BigInteger, nullable=True),
        sa.Column("above_tokens", sa.BigInteger, nullable=True),
        sa.Column("discount", sa.Float, nullable=False),
    )


def _contents() -> None:
    op.create_table(
        "contents",
        sa.Column("record", sa.String(64), primary_key=True),
        sa.Column("expires", sa.BigInteger, nullable=False),
        sa.Column("content", sa.Text, nullable=False),
    )
    op.create_index("contents_expires", "contents", ["expires"])


def downgrade() -> None:
    """Drop them."""
    for table in ("contents", "prices", "lines", "exchanges"):
        op.drop_table(table)
