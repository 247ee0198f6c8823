"""`junctor costs` and `junctor ledger`: what the ledger knows, without a running gateway."""

from __future__ import annotations

import csv
import io
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import orjson
from junctor import ConfigError, config
from sqlalchemy.exc import DBAPIError

from junctor_logging.costs import DIMENSIONS, Question, dollars, parse_time, report
from junctor_logging.database import connect, migrate
from junctor_logging.ledger import Ledger
from junctor_logging.reconcile import Export, compare, drift_table, read_export
from junctor_logging.sinks import Context, read_sinks

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from sqlalchemy import URL, Connection

    from junctor_logging.settings import LoggingSettings

__all__ = ["add", "find_ledger"]

_MONEY = ("cost", "billed", "saved")
_SHOWN = ("requests", "attempts", "input_tokens", "output_tokens", "cost", "billed", "saved", "unpriced")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to `junctor`."""
    costs = commands.add_parser(
        "costs", help="what was spent, by team, feature, model …", description="What was spent."
    )
    costs.add_argument("--by", default="team", metavar="A,B", help=f"group by: {', '.join(DIMENSIONS)}")
    costs.add_argument("--since", default="30d", metavar="TIME", help="7d, 2026-01-31, 2026-01-31T12:00 (UTC)")
    costs.add_argument("--until", default="", metavar="TIME", help="the same; without it, now")
    costs.add_argument("--where", action="append", default=[], metavar="A=VALUE", help="only these; may be repeated")
    costs.add_argument("--format", choices=("table", "csv", "json"), default="table")
    costs.set_defaults(run=_costs)
    actions = costs.add_subparsers(dest="action", metavar="ACTION")
    against = actions.add_parser("reconcile", help="compare with a provider's usage or cost export")
    against.add_argument("file", metavar="FILE", help="OpenAI's or Anthropic's export, CSV or JSON")
    against.add_argument("--tolerance", type=float, default=1.0, metavar="PERCENT", help="drift that is still good")
    against.add_argument("--format", choices=("table", "csv", "json"), default="table", dest="form")
    against.set_defaults(run=_reconcile)
    ledger = commands.add_parser("ledger", help="the SQL ledger", description="The SQL ledger.")
    steps = ledger.add_subparsers(dest="action", required=True, metavar="ACTION")
    upgrade = steps.add_parser("migrate", help="create the tables, or bring them to the newest form")
    upgrade.set_defaults(run=_migrate)


def find_ledger(settings: LoggingSettings) -> URL:
    """The address of the first ledger among the sinks; raises `ConfigError` if there is none."""
    for section in read_sinks(settings.sinks):
        if section.factory is Ledger:
            return Ledger(section.settings, Context(settings.folder, section.label)).url
    raise ConfigError("plugins (logging).sinks: there is no ledger; add `ledger` to keep accounts")


@contextmanager
def _opened(args: argparse.Namespace) -> Iterator[Connection]:
    sections = config.read(args.config or config.default_file()).sections
    settings: Any = next(section.settings for section in sections if section.name == "logging")
    engine = connect(find_ledger(settings))
    try:
        with engine.connect() as connection:
            yield connection
    except DBAPIError as error:
        reason = str(error.orig).strip()
        hint = "; nothing has been logged yet, or `junctor ledger migrate` is due" if "lines" in reason else ""
        raise ConfigError(f"the ledger cannot be read: {reason}{hint}") from None
    finally:
        engine.dispose()


def _costs(args: argparse.Namespace) -> int:
    try:
        question = Question(
            by=[name.strip() for name in args.by.split(",") if name.strip()],
            since=parse_time(args.since),
            until=parse_time(args.until) if args.until else 1 << 62,
            where=dict(_pair(text) for text in args.where),
        )
    except ValueError as error:
        print(f"junctor costs: {error}", file=sys.stderr)
        return 2
    with _opened(args) as connection:
        found = report(connection, question)
    print({"table": as_table, "csv": as_csv, "json": as_json}[args.format](found))
    return 0


def _pair(text: str) -> tuple[str, str]:
    name, mark, value = text.partition("=")
    if not mark:
        raise ValueError(f"--where '{text}': write for example team=search")
    return name, value


def _migrate(args: argparse.Namespace) -> int:
    with _opened(args) as connection:
        migrate(connection)
    print("the ledger is in its newest form")
    return 0


def as_json(found: dict[str, Any]) -> str:
    """The report as it is: money in integer nano-dollars."""
    return orjson.dumps(found, option=orjson.OPT_INDENT_2).decode()


def as_csv(found: dict[str, Any]) -> str:
    """All figures, money in dollars with nine places."""
    out = io.StringIO()
    names = [*found["by"], *found["total"]]
    table = csv.writer(out, lineterminator="\n")
    table.writerow(names)
    for row in found["rows"]:
        table.writerow([dollars(row[name]) if name in _MONEY else row[name] for name in names])
    return out.getvalue().rstrip("\n")


def as_table(found: dict[str, Any]) -> str:
    """For people: the main figures, a total, and what lacks a price."""
    names = [*found["by"], *_SHOWN]
    rows = [[_cell(name, row[name]) for name in names] for row in found["rows"]]
    total = ["total", *[""] * (len(found["by"]) - 1), *[_cell(name, found["total"][name]) for name in _SHOWN]]
    text = columns([[name.replace("_", " ") for name in names], *rows, total], left=len(found["by"]))
    if found["unpriced_targets"]:
        text += (
            "\n\nwithout a price (their tokens are counted, their money is not known; set `price:` on the target):\n"
        )
        text += "\n".join(
            f"  {target['target']}: {target['attempts']} attempts, "
            f"{target['input_tokens']} input and {target['output_tokens']} output tokens"
            for target in found["unpriced_targets"]
        )
    return text


def columns(rows: Sequence[Sequence[str]], *, left: int) -> str:
    """Text in columns; the first `left` ones are flush left, the others right."""
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def _cell(name: str, value: Any) -> str:
    if name in _MONEY:
        return f"${dollars(value, 6)}"
    return f"{value:,}" if isinstance(value, int) else str(value) or "–"


def _reconcile(args: argparse.Namespace) -> int:
    try:
        export: Export = read_export(args.file)
    except (OSError, ValueError) as error:
        print(f"{args.file}: {error}", file=sys.stderr)
        return 2
    with _opened(args) as connection:
        found = compare(connection, export)
    if args.form == "json":
        print(as_json(found))
    else:
        print(drift_table(found, csv_form=args.form == "csv"))
    return 0 if found["worst"] <= args.tolerance else 1
