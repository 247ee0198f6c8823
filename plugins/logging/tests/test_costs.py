"""Reports: by whatever the lines are attributed to, in money and tokens, over time."""

import csv
import io
import json

import pytest
from junctor import Client, ErrorKind, ProviderError, hookimpl
from junctor.__main__ import main
from junctor.testing import FakeProvider
from junctor_logging.costs import Question, parse_time, report
from junctor_logging.database import address, connect, migrate
from junctor_logging.ledger import Ledger, LedgerSettings
from junctor_logging.record import from_line
from junctor_logging.sinks import Context

BUSY = ProviderError("busy", kind=ErrorKind.OVERLOADED)


class Who:
    """Every request comes from the team and feature that its headers name."""

    @hookimpl
    async def pre_route(self, exchange):
        given = exchange.request.headers
        exchange.client = Client(
            key_id="k1", team=given["team"], feature=given["feature"], tags={"cost-centre": given["team"].upper()}
        )


class Again:
    @hookimpl
    async def on_error(self, exchange, target, error):
        return target if len(exchange.attempts) == 1 else None


CALLS = [("search", "answers"), ("search", "ranking"), ("shop", "answers"), ("search", "answers")]


@pytest.fixture
async def spent(logged, log):
    """Four chats of two teams and a retry, in a ledger; and the configuration that names it."""
    async with logged(Who(), Again(), FakeProvider(script=[None, BUSY, None, None, None])) as g:
        for team, feature in CALLS:
            await g.chat(headers={"team": team, "feature": feature})
        await g.chat(model="free", headers={"team": "shop", "feature": "answers"})
    path = log.folder / "config.yaml"
    path.write_text(f"plugins:\n  - logging: {{directory: {json.dumps(str(log.folder))}}}\n")
    return str(path)


def run(capsys, *arguments):
    code = main(["costs", *arguments])
    return code, capsys.readouterr().out


async def test_costs_by_team_and_feature_as_json(spent, capsys):
    code, out = run(capsys, "--by", "team,feature", "--since", "7d", "--format", "json", "-c", spent)
    found = json.loads(out)
    rows = {(row["team"], row["feature"]): row for row in found["rows"]}
    assert code == 0
    assert rows["search", "answers"]["cost"] == 2 * 17_000
    assert (rows["search", "ranking"]["requests"], rows["search", "ranking"]["attempts"]) == (1, 2)
    assert rows["shop", "answers"] | {"unpriced": 1, "input_tokens": 14} == rows["shop", "answers"]
    assert found["total"]["cost"] == 4 * 17_000
    assert found["unpriced_targets"] == [{"target": "fake/three", "attempts": 1, "input_tokens": 7, "output_tokens": 5}]


async def test_csv_has_exact_dollars(spent, capsys):
    _, out = run(capsys, "--by", "team", "--format", "csv", "-c", spent)
    rows = list(csv.DictReader(io.StringIO(out)))
    assert [(row["team"], row["cost"]) for row in rows] == [("search", "0.000051000"), ("shop", "0.000017000")]


async def test_the_table_names_what_lacks_a_price(spent, capsys):
    _, out = run(capsys, "--by", "team", "-c", spent)
    assert "$0.000068" in out
    assert "fake/three: 1 attempts" in out


async def test_reports_by_tag_bucket_and_kind_and_with_a_condition(spent, capsys):
    _, out = run(capsys, "--by", "tag:cost-centre,day", "--format", "json", "-c", spent)
    rows = json.loads(out)["rows"]
    assert [row["tag:cost-centre"] for row in rows] == ["SEARCH", "SHOP"]
    assert len(rows[0]["day"]) == 10
    _, out = run(capsys, "--by", "kind", "--where", "feature=ranking", "--format", "json", "-c", spent)
    assert {row["kind"]: row["requests"] for row in json.loads(out)["rows"]} == {"first": 0, "retry": 1}


async def test_nothing_is_in_a_time_before_the_first(spent, capsys):
    _, out = run(capsys, "--since", "2020-01-01", "--until", "2020-01-02", "--format", "json", "-c", spent)
    assert json.loads(out)["rows"] == []


async def test_what_cannot_be_understood_is_told(spent, capsys, tmp_path):
    assert main(["costs", "--by", "teem", "-c", spent]) == 2
    assert "'teem' is not known" in capsys.readouterr().err
    assert main(["costs", "--since", "soon", "-c", spent]) == 2
    assert "'soon' is not a time" in capsys.readouterr().err
    assert main(["costs", "--where", "team", "-c", spent]) == 2
    assert "team=search" in capsys.readouterr().err


def test_a_ledger_that_is_empty_or_missing_is_told(capsys, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(f"plugins:\n  - logging: {{directory: {json.dumps(str(tmp_path / 'new'))}}}\n")
    assert main(["costs", "-c", str(path)]) == 1
    assert "nothing has been logged yet" in capsys.readouterr().err
    assert main(["ledger", "migrate", "-c", str(path)]) == 0
    capsys.readouterr()
    assert main(["costs", "--format", "csv", "-c", str(path)]) == 0
    path.write_text("plugins:\n  - logging: {sinks: [json_lines]}\n")
    assert main(["costs", "-c", str(path)]) == 1
    assert "there is no ledger" in capsys.readouterr().err


async def test_a_discount_is_billed_and_the_list_price_stays(logged, log):
    settings = {"discounts": {"fake": "10%", "fake/two": 0.5}}
    async with logged(FakeProvider(), settings=settings) as g:
        await g.chat()
    (line,) = log.lines
    assert (line["cost"], line["billed"]) == (17_000, 15_300)
    assert log.sql("select discount from prices") == [{"discount": 0.1}]
    assert log.record["cost"]["billed"] == 15_300


async def test_a_price_change_does_not_rewrite_history(logged, log):
    for price in (1, 3):
        models = [{"name": "test", "targets": [{"target": "fake/one", "price": {"input": price}}]}]
        async with logged(FakeProvider(), models=models) as g:
            await g.chat()
    assert [line["cost"] for line in log.lines] == [7_000, 21_000]
    joined = "select prices.input from lines join prices on prices.id = lines.price order by time"
    assert [row["input"] for row in log.sql(joined)] == [10**9, 3 * 10**9]


async def test_a_discount_for_what_is_not_there_is_a_mistake(logged):
    from junctor import ConfigError

    with pytest.raises(ConfigError, match=r"discounts\.opena"):
        async with logged(FakeProvider(), settings={"discounts": {"opena": "10%"}}):
            pass


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_buckets_and_tags_are_the_same_in_both_databases(kind, tmp_path, request):
    url = request.getfixturevalue("postgres") if kind == "postgres" else f"sqlite:///{tmp_path}/x.db"
    tokens = {"input": 1, "output": 0, "cache_read": 0, "cache_write": 0, "reasoning": 0, "estimated": False}
    times = ["2026-01-31T23:59:59Z", "2026-02-01T00:00:00Z", "2026-02-01T10:30:00Z", "2026-02-28T10:59:00Z"]
    attempt = {"target": "a/b", "provider": "a", "usage": tokens}
    made = [
        {"record": f"r{n}", "id": "x", "time": at, "tags": {"a.b": f"t{n % 2}"} if n else {}, "attempts": [attempt]}
        for n, at in enumerate(times)
    ]
    ledger = Ledger(LedgerSettings(url=url), Context(tmp_path, "x"))
    ledger.open()
    ledger.write([from_line(json.dumps(one).encode()) for one in made], again=False)
    ledger.close()
    engine = connect(address(url, tmp_path))
    with engine.connect() as connection:
        months = report(connection, Question(by=["month"]))["rows"]
        hours = report(connection, Question(by=["hour"], since=parse_time("2026-02-01")))["rows"]
        tags = report(connection, Question(by=["tag:a.b"]))["rows"]
        migrate(connection)
    engine.dispose()
    assert [(row["month"], row["requests"]) for row in months] == [("2026-01", 1), ("2026-02", 3)]
    assert [row["hour"] for row in hours] == ["2026-02-01T00:00Z", "2026-02-01T10:00Z", "2026-02-28T10:00Z"]
    assert [(row["tag:a.b"], row["unpriced"]) for row in tags] == [("", 1), ("t0", 1), ("t1", 2)]


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [("1h", 996_400_000), ("2026-01-31", 1769817600000), ("2026-01-31T01:00:00+01:00", 1769817600000)],
)
def test_times_are_spans_dates_and_instants(text, milliseconds):
    assert parse_time(text, now=1_000_000) == milliseconds
