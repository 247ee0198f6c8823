"""Compares the ledger with what a provider says was used: its usage or cost export, by day and model."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from junctor import jsons
from sqlalchemy import func, select

from junctor_logging.costs import dollars
from junctor_logging.tables import lines

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from sqlalchemy import Connection

__all__ = ["Export", "Sum", "compare", "drift_table", "read_export"]

_MAX_FILE = 256 * 1024 * 1024
_DAY = 86_400_000
_DATED = re.compile(r"(?:[-@](?:\d{4}-\d{2}-\d{2}|\d{8})|-latest)$")
_EVERY = "(all models)"


@dataclass(slots=True)
class Sum:
    """Input tokens with what the cache read and wrote, output tokens, and nano-dollars; None where nothing is said."""

    input: int | None = None
    output: int | None = None
    money: int | None = None

    def add(self, *, input: int | None = None, output: int | None = None, money: int | None = None) -> None:  # noqa: A002
        for name, value in (("input", input), ("output", output), ("money", money)):
            if value is not None:
                setattr(self, name, (getattr(self, name) or 0) + value)


@dataclass(slots=True)
class Export:
    """A provider's figures by (day, model). The model is empty where the provider does not tell it."""

    provider: str
    kind: str
    sums: dict[tuple[str, str], Sum] = field(default_factory=lambda: defaultdict(Sum))


def read_export(file: str) -> Export:
    """Read a file; raises ValueError for a form that is not known, with those that are.

    OpenAI: the usage and the costs export of the dashboard (CSV), and the answers of `/v1/organization/usage/…` and
    `/v1/organization/costs` (JSON). Anthropic: the usage and the cost export of the Console (CSV), and the answers of
    `/v1/organizations/usage_report/messages` and `/v1/organizations/cost_report` (JSON).
    """
    path = Path(file)
    if path.stat().st_size > _MAX_FILE:
        raise ValueError(f"is over {_MAX_FILE} bytes")
    text = path.read_text(encoding="utf-8-sig")
    if text.lstrip()[:1] in ("{", "["):
        return _from_json(jsons.loads(text))
    head = text.split("\n", 1)[0]
    return _from_csv(list(csv.DictReader(io.StringIO(text), delimiter="\t" if "\t" in head else ",")))


def _from_csv(rows: Sequence[Mapping[str, str]]) -> Export:
    names = set(rows[0]) if rows else set()
    if {"usage_date_utc", "usage_output_tokens"} <= names:
        export = Export("anthropic", "usage")
        for row in rows:
            sent = sum(_number(value) for name, value in row.items() if name and name.startswith("usage_input_tokens"))
            export.sums[row["usage_date_utc"][:10], _model(row.get("model_version") or row.get("model"))].add(
                input=sent, output=_number(row["usage_output_tokens"])
            )
        return export
    if {"usage_date_utc", "cost_usd"} <= names:
        export = Export("anthropic", "cost")
        for row in rows:
            export.sums[row["usage_date_utc"][:10], _model(row.get("model"))].add(money=_nano(row["cost_usd"]))
        return export
    if {"amount_value", "start_time"} <= names:
        export = Export("openai", "cost")
        for row in rows:
            if row["amount_value"]:
                item = row.get("line_item")
                export.sums[_day(row["start_time"]), _item(item)].add(money=_nano(row["amount_value"]))
        return export
    if {"input_tokens", "start_time"} <= names:
        export = Export("openai", "usage")
        for row in rows:
            if row.get("model"):
                export.sums[_day(row["start_time"]), _model(row["model"])].add(
                    input=_number(row["input_tokens"]), output=_number(row.get("output_tokens"))
                )
        return export
    raise ValueError(
        "is in no form that is known: OpenAI's usage or costs export, Anthropic's usage or cost export (CSV or JSON)"
    )


def _from_json(data: Any) -> Export:
    pages = data if isinstance(data, list) else [data]
    buckets = [bucket for page in pages for bucket in page.get("data", [page])]
    results = [(bucket, result) for bucket in buckets for result in bucket.get("results", ())]
    export = Export(*_kind_of(results, buckets))
    for bucket, result in results:
        day = _day(bucket.get("start_time") or bucket.get("starting_at"))
        if (export.provider, export.kind) == ("openai", "cost"):
            export.sums[day, _item(result.get("line_item"))].add(money=_nano(result["amount"]["value"]))
        elif export.kind == "cost":
            # "in lowest currency units": cents, as a decimal text.
            export.sums[day, _model(result.get("model"))].add(money=_nano(result["amount"]) // 100)
        elif export.provider == "openai":
            export.sums[day, _model(result.get("model"))].add(
                input=_number(result.get("input_tokens")), output=_number(result.get("output_tokens"))
            )
        else:
            written = sum(_number(value) for value in (result.get("cache_creation") or {}).values())
            sent = written + _number(result["uncached_input_tokens"]) + _number(result.get("cache_read_input_tokens"))
            export.sums[day, _model(result.get("model"))].add(input=sent, output=_number(result.get("output_tokens")))
    return export


def _kind_of(results: Sequence[tuple[Any, Any]], buckets: Sequence[Any]) -> tuple[str, str]:
    provider = "anthropic" if buckets and "starting_at" in buckets[0] else "openai"
    if not results:
        raise ValueError("holds no results")
    first = results[0][1]
    kind = "cost" if "amount" in first else "usage"
    if kind == "usage" and not {"input_tokens", "uncached_input_tokens"} & set(first):
        raise ValueError("is in no form that is known: its results have neither tokens nor an amount")
    return provider, kind


def _number(value: Any) -> int:
    return int(Decimal(str(value).replace(",", ""))) if value not in (None, "") else 0


def _nano(value: Any) -> int:
    return int((Decimal(str(value).lstrip("$").replace(",", "")) * 10**9).to_integral_value())


def _day(value: Any) -> str:
    text = str(value)
    if text.replace(".", "", 1).isdigit():
        return datetime.fromtimestamp(float(text), UTC).strftime("%Y-%m-%d")
    return text[:10]


def _model(name: str | None) -> str:
    """A model's name without date, in one spelling: `Claude Sonnet 4.5` and `claude-sonnet-4-5-20250929` are one."""
    text = (name or "").strip().lower().replace(" ", "-").rsplit("/", 1)[-1]
    text = _DATED.sub("", text)
    return text.replace(".", "-") if text.startswith("claude") else text


def _item(item: str | None) -> str:
    """The model out of OpenAI's line item, such as `gpt-4o-mini-2024-07-18, input`."""
    return _model((item or "").split(",")[0])


def compare(connection: Connection, export: Export) -> dict[str, Any]:
    """Both sides by day and model, and the drift in percent: what the ledger has more (+) or less (−)."""
    days = sorted({day for day, _ in export.sums})
    if not days:
        raise ValueError("holds no days")
    ours = _of_ledger(connection, export.provider, days)
    if all(not model for _, model in export.sums):  # a provider that tells only the day
        folded: dict[tuple[str, str], Sum] = defaultdict(Sum)
        for (day, _), one in ours.items():
            folded[day, ""].add(input=one.input, output=one.output, money=one.money)
        ours = folded
    rows = [_row(key, export, ours) for key in sorted({*export.sums, *ours})]
    worst = max((abs(row["drift"]) for row in rows if row["drift"] is not None), default=0.0)
    unmatched = sum(row["drift"] is None for row in rows)
    return {
        "provider": export.provider,
        "kind": export.kind,
        "since": days[0],
        "until": days[-1],
        "rows": rows,
        "worst": 100.0 if unmatched else worst,
        "unmatched": unmatched,
    }


def _of_ledger(connection: Connection, provider: str, days: Sequence[str]) -> dict[tuple[str, str], Sum]:
    c = lines.c
    begin = int(datetime.fromisoformat(days[0]).replace(tzinfo=UTC).timestamp() * 1000)
    end = int(datetime.fromisoformat(days[-1]).replace(tzinfo=UTC).timestamp() * 1000) + _DAY
    day = (c.time - c.time % _DAY).label("day")
    statement = (
        select(day, c.answered_model, c.target, func.sum(c.input_tokens), func.sum(c.output_tokens), func.sum(c.billed))
        .where(c.provider == provider, c.time >= begin, c.time < end, c.kind != "cache")
        .group_by(day, c.answered_model, c.target)
    )
    found: dict[tuple[str, str], Sum] = defaultdict(Sum)
    for at, answered, target, sent, got, billed in connection.execute(statement):
        date = datetime.fromtimestamp(at / 1000, UTC).strftime("%Y-%m-%d")
        if date in set(days):
            # The answer names the model that was billed; an alias of the provider's resolves only there.
            named = _model(answered or target.split("/", 1)[-1])
            found[date, named].add(input=int(sent), output=int(got), money=int(billed or 0))
    return {key: one for key, one in found.items() if one.input or one.output or one.money}


def _row(key: tuple[str, str], export: Export, ours: Mapping[tuple[str, str], Sum]) -> dict[str, Any]:
    theirs, mine = export.sums.get(key, Sum()), ours.get(key, Sum())
    pairs = (
        [(theirs.money, mine.money)]
        if export.kind == "cost"
        else [(theirs.input, mine.input), (theirs.output, mine.output)]
    )
    drifts = [_drift(provider, ledger) for provider, ledger in pairs]
    known = [drift for drift in drifts if drift is not None]
    return {
        "day": key[0],
        "model": key[1] or _EVERY,
        "provider": {"input_tokens": theirs.input, "output_tokens": theirs.output, "cost": theirs.money},
        "ledger": {"input_tokens": mine.input, "output_tokens": mine.output, "cost": mine.money},
        "drift": max(known, key=abs) if len(known) == len(drifts) else None,
    }


def _drift(provider: int | None, ledger: int | None) -> float | None:
    if not provider:
        return 0.0 if not ledger else None
    return round(((ledger or 0) - provider) / provider * 100, 3)


def drift_table(found: Mapping[str, Any], *, csv_form: bool = False) -> str:
    """For people, or as CSV."""
    sides = [f"{side} {what}" for what in ("input", "output", "$") for side in ("provider", "ledger")]
    rows = [["day", "model", *sides, "drift %"], *_cells(found["rows"])]
    if csv_form:
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerows(rows)
        return out.getvalue().rstrip("\n")
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    text = "\n".join(
        "  ".join(
            cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )
    note = f"\n{found['unmatched']} rows are known to one side only" if found["unmatched"] else ""
    return f"{text}\nworst drift: {found['worst']:g} %{note}"


def _cells(rows: Sequence[Mapping[str, Any]]) -> Iterator[list[str]]:
    for row in rows:
        pairs = [row[side][name] for name in ("input_tokens", "output_tokens") for side in ("provider", "ledger")]
        money = [row[side]["cost"] for side in ("provider", "ledger")]
        yield [
            row["day"],
            row["model"],
            *("–" if value is None else f"{value}" for value in pairs),
            *("–" if value is None else dollars(value, 6) for value in money),
            "one side only" if row["drift"] is None else f"{row['drift']:+g}",
        ]
