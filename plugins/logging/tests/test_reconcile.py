"""The ledger against what a provider says, in each of the forms that OpenAI and Anthropic give."""

import json

import pytest
from junctor.__main__ import main
from junctor_logging.ledger import Ledger, LedgerSettings
from junctor_logging.reconcile import read_export
from junctor_logging.record import from_line
from junctor_logging.sinks import Context

DAY, START = "2026-03-02", 1772409600

OPENAI_HEAD = (
    "start_time,end_time,start_time_iso,project_id,num_model_requests,model,input_tokens,output_tokens,"
    "input_cached_tokens"
)
ANTHROPIC_HEAD = (
    "usage_date_utc,model_version,api_key,workspace,usage_type,context_window,usage_input_tokens_no_cache,"
    "usage_input_tokens_cache_write_5m,usage_input_tokens_cache_write_1h,usage_input_tokens_cache_read,"
    "usage_output_tokens,web_search_count"
)
OPENAI_USAGE_CSV = f"""{OPENAI_HEAD}
{START},{START + 86400},{DAY}T00:00:00+00:00,proj_1,2,gpt-4o-mini-2024-07-18,600,60,100
{START},{START + 86400},{DAY}T00:00:00+00:00,proj_2,1,gpt-4o-mini-2024-07-18,400,40,0
{START + 86400},{START + 172800},,,,,,,
"""
OPENAI_COST_CSV = f"""start_time,end_time,start_time_iso,amount_value,amount_currency,line_item,project_id
{START},{START + 86400},{DAY}T00:00:00+00:00,0.0000006,usd,"gpt-4o-mini-2024-07-18, input",proj_1
{START},{START + 86400},{DAY}T00:00:00+00:00,0.0000004,usd,"gpt-4o-mini-2024-07-18, output",proj_1
{START + 86400},{START + 172800},,,,,
"""
OPENAI_USAGE_JSON = {
    "object": "page",
    "data": [
        {
            "object": "bucket",
            "start_time": START,
            "results": [
                {
                    "object": "organization.usage.completions.result",
                    "model": "gpt-4o-mini-2024-07-18",
                    "input_tokens": 1000,
                    "output_tokens": 100,
                    "input_cached_tokens": 100,
                }
            ],
        }
    ],
}
OPENAI_COST_JSON = {
    "data": [
        {
            "start_time": START,
            "results": [
                {
                    "object": "organization.costs.result",
                    "amount": {"value": 0.000001, "currency": "usd"},
                    "line_item": None,
                }
            ],
        }
    ]
}
ANTHROPIC_USAGE_CSV = f"""{ANTHROPIC_HEAD}
{DAY},claude-haiku-4-5-20251001,k,Default,standard,≤ 200k,700,100,50,150,100,0
"""
ANTHROPIC_COST_CSV = f"""usage_date_utc,model,workspace,api_key,usage_type,token_type,cost_usd
{DAY},Claude Haiku 4.5,Default,k,standard,input,0.0000009
{DAY},Claude Haiku 4.5,Default,k,standard,output,0.0000001
"""
ANTHROPIC_USAGE_JSON = {
    "data": [
        {
            "starting_at": f"{DAY}T00:00:00Z",
            "results": [
                {
                    "model": "claude-haiku-4-5-20251001",
                    "uncached_input_tokens": 700,
                    "cache_creation": {"ephemeral_1h_input_tokens": 50, "ephemeral_5m_input_tokens": 100},
                    "cache_read_input_tokens": 150,
                    "output_tokens": 100,
                }
            ],
        }
    ],
    "has_more": False,
}
ANTHROPIC_COST_JSON = {
    "data": [
        {
            "starting_at": f"{DAY}T00:00:00Z",
            "results": [{"currency": "USD", "amount": "0.0001", "model": "claude-haiku-4-5-20251001"}],
        }
    ]
}
FORMS = {
    "openai-usage.csv": (OPENAI_USAGE_CSV, "openai", "usage"),
    "openai-cost.csv": (OPENAI_COST_CSV, "openai", "cost"),
    "openai-usage.json": (OPENAI_USAGE_JSON, "openai", "usage"),
    "openai-cost.json": (OPENAI_COST_JSON, "openai", "cost"),
    "anthropic-usage.csv": (ANTHROPIC_USAGE_CSV, "anthropic", "usage"),
    "anthropic-cost.csv": (ANTHROPIC_COST_CSV, "anthropic", "cost"),
    "anthropic-usage.json": (ANTHROPIC_USAGE_JSON, "anthropic", "usage"),
    "anthropic-cost.json": (ANTHROPIC_COST_JSON, "anthropic", "cost"),
}


def record(number, target, *, tokens, cost, answered):
    usage = {
        "input": tokens[0],
        "output": tokens[1],
        "cache_read": 0,
        "cache_write": 0,
        "reasoning": 0,
        "estimated": False,
    }
    money = {"input": cost, "output": 0, "cache_read": 0, "cache_write": 0, "total": cost, "billed": cost}
    attempt = {"target": target, "provider": target.split("/")[0], "usage": usage, "cost": money}
    data = {"record": f"r{number}", "id": "x", "time": f"{DAY}T12:00:00Z", "answered_model": answered}
    return from_line(json.dumps(data | {"attempts": [attempt]}).encode())


@pytest.fixture
def books(tmp_path):
    """A ledger of one day: 1000 + 100 tokens and 1000 nano-dollars at each provider; and a configuration."""

    def make(extra=0):
        ledger = Ledger(LedgerSettings(), Context(tmp_path, "ledger"))
        ledger.open()
        one = record(1, "openai/gpt-4o-mini", tokens=(1000 + extra, 100), cost=1000, answered="gpt-4o-mini-2024-07-18")
        two = record(
            2, "anthropic/claude-haiku-4-5", tokens=(1000, 100), cost=1000, answered="claude-haiku-4-5-20251001"
        )
        ledger.write([one, two], again=False)
        ledger.close()
        path = tmp_path / "config.yaml"
        path.write_text(f"plugins:\n  - logging: {{directory: {json.dumps(str(tmp_path))}}}\n")
        return str(path)

    return make


def write(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", FORMS)
def test_every_form_is_known_and_agrees_with_an_exact_ledger(name, books, tmp_path, capsys):
    content, provider, kind = FORMS[name]
    file = write(tmp_path, name, content)
    assert main(["costs", "reconcile", file, "--format", "json", "-c", books()]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["provider"], found["kind"], found["worst"]) == (provider, kind, 0.0)
    assert [row["day"] for row in found["rows"]] == [DAY]


def test_a_drift_is_shown_by_day_and_model_and_is_an_exit_code(books, tmp_path, capsys):
    file = write(tmp_path, "usage.json", OPENAI_USAGE_JSON)
    config = books(extra=50)
    assert main(["costs", "reconcile", file, "-c", config]) == 1
    out = capsys.readouterr().out
    assert "gpt-4o-mini" in out
    assert "+5" in out
    assert main(["costs", "reconcile", file, "--tolerance", "6", "--format", "csv", "-c", config]) == 0


def test_a_model_that_only_one_side_knows_is_no_agreement(books, tmp_path, capsys):
    other = json.loads(json.dumps(OPENAI_USAGE_JSON).replace("gpt-4o-mini-2024-07-18", "o3"))
    assert main(["costs", "reconcile", write(tmp_path, "x.json", other), "-c", books()]) == 1
    assert "one side only" in capsys.readouterr().out


def test_what_is_no_export_is_told(books, tmp_path, capsys):
    for content in ("a,b\n1,2\n", "", "{}", '{"data": []}', '{"data": [{"results": [{"x": 1}]}]}'):
        assert main(["costs", "reconcile", write(tmp_path, "x", content), "-c", books()]) == 2
    assert main(["costs", "reconcile", str(tmp_path / "missing"), "-c", books()]) == 2


def test_pages_in_a_list_are_added_up(tmp_path):
    file = write(tmp_path, "pages.json", [OPENAI_USAGE_JSON, OPENAI_USAGE_JSON])
    assert read_export(file).sums[DAY, "gpt-4o-mini"].input == 2000
