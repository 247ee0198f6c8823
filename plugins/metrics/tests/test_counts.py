"""What is counted of an exchange, read where Prometheus reads it."""

import asyncio

import pytest
from junctor import Client, ErrorKind, ProviderError, Refused, Response, hookimpl
from junctor.testing import FakeProvider


class Retry:
    """Calls the same target again, then the next one."""

    @hookimpl
    async def on_error(self, exchange, target, error):
        return target if len(exchange.attempts) == 1 else exchange.targets[1]


class Facts:
    """Says what other plugins would."""

    def __init__(self, team="search", **facts):
        self.team, self.facts = team, facts

    @hookimpl
    async def pre_route(self, exchange):
        exchange.client = Client(team=self.team)
        exchange.facts.update(self.facts)


def broken(kind=ErrorKind.OVERLOADED):
    return ProviderError("no", kind=kind)


async def test_a_plain_chat_is_counted_with_its_tokens_and_its_cost(metered, scrape):
    async with metered(Facts(), FakeProvider(usage=(1000, 500))) as g:
        await g.chat()
        figures = await scrape(g)
    assert figures["junctor_requests_total", "test", "chat", "search", "", "answered"] == 1
    assert figures["junctor_attempts_total", "fake/one", "answered"] == 1
    assert figures["junctor_tokens_total", "fake/one", "search", "input"] == 1000
    assert figures["junctor_tokens_total", "fake/one", "search", "output"] == 500
    assert figures["junctor_cost_dollars_total", "fake/one", "search"] == pytest.approx(0.002)
    assert figures["junctor_request_duration_seconds_count", "test", "chat"] == 1
    assert figures["junctor_overhead_seconds_count", "test"] == 1


async def test_a_stream_has_a_time_to_its_first_token_and_one_for_each_further_one(metered, scrape):
    async with metered(FakeProvider("a b c d e", chunk_delay=0.02)) as g:
        await g.chat(stream=True)
        figures = await scrape(g)
    assert figures["junctor_time_to_first_token_seconds_count", "test"] == 1
    assert figures["junctor_time_to_first_token_seconds_sum", "test"] < 0.1
    assert figures["junctor_time_per_output_token_seconds_count", "fake/one"] == 1
    assert figures["junctor_time_per_output_token_seconds_sum", "fake/one"] > 0.02


async def test_retries_and_fallbacks_are_told_apart(metered, scrape):
    async with metered(Retry(), FakeProvider(script=[broken(), broken(), "good"])) as g:
        assert (await g.chat()).text == "good"
        figures = await scrape(g)
    assert figures["junctor_retries_total", "fake/one"] == 1
    assert figures["junctor_fallbacks_total", "fake/two"] == 1
    assert figures["junctor_attempts_total", "fake/one", "overloaded"] == 2
    assert figures["junctor_attempts_total", "fake/two", "answered"] == 1


@pytest.mark.parametrize(
    ("error", "outcome", "kind"),
    [
        (broken(), "failed", "overloaded"),
        (broken(ErrorKind.TIMEOUT), "failed", "timeout"),
        (Refused("no", status_code=429, code="rate_limit_exceeded"), "refused", "rate_limit_exceeded"),
    ],
)
async def test_errors_are_counted_by_their_kind(metered, scrape, error, outcome, kind):
    async with metered(FakeProvider(script=[error])) as g:
        await g.chat()
        figures = await scrape(g)
    assert figures["junctor_errors_total", "test", kind] == 1
    assert figures["junctor_requests_total", "test", "chat", "", "", outcome] == 1


async def test_refusals_are_counted_by_team_and_status(metered, scrape):
    class Full:
        @hookimpl
        async def pre_route(self, exchange):
            raise Refused("enough", status_code=429, code="insufficient_quota")

    async with metered(Facts(), Full(), FakeProvider()) as g:
        await g.chat()
        figures = await scrape(g)
    assert figures["junctor_refusals_total", "search", "429", "insufficient_quota"] == 1


async def test_a_client_that_hangs_up_is_no_failure(metered, scrape):
    async with metered(FakeProvider(chunk_delay=0.02)) as g:
        await g.chat(stream=True, hang_up_after=1)
        figures = await scrape(g)
    assert figures["junctor_requests_total", "test", "chat", "", "", "cancelled"] == 1
    assert figures["junctor_attempts_total", "fake/one", "abandoned"] == 1


async def test_tokens_without_a_price_are_unpriced_and_not_free(metered, scrape):
    async with metered(FakeProvider()) as g:
        await g.chat(model="free")
        figures = await scrape(g)
    assert figures["junctor_unpriced_attempts_total", "fake/three"] == 1
    assert ("junctor_cost_dollars_total", "fake/three", "") not in figures


async def test_caches_are_counted_with_what_they_saved(metered, scrape):
    class Cache:
        @hookimpl
        async def cache_lookup(self, exchange):
            exchange.facts["cache"] = {"status": "hit", "cache": "exact", "saved": 3_000_000}
            return Response(b"{}", cached="exact")

    async with metered(Cache(), FakeProvider()) as g:
        await g.chat()
        figures = await scrape(g)
    assert figures["junctor_cache_requests_total", "exact", "hit"] == 1
    assert figures["junctor_cache_saved_dollars_total", "exact"] == pytest.approx(0.003)
    assert figures["junctor_requests_total", "test", "chat", "", "", "cached"] == 1


async def test_the_use_of_budgets_and_limits_is_read_from_the_facts(metered, scrape):
    quota = {"limit": "daily tokens", "scope": "end user a@example.org", "share": 0.5}
    async with metered(Facts(budget_used=0.75, quota=quota), FakeProvider()) as g:
        await g.chat()
        figures = await scrape(g)
    assert figures["junctor_budget_used_ratio", "search"] == 0.75
    assert figures["junctor_quota_used_ratio", "daily tokens", "search"] == 0.5
    assert "a@example.org" not in str(figures)


async def test_every_plugins_time_is_counted_by_hook(metered, scrape):
    async with metered(Facts(), FakeProvider(script=[0.05])) as g:
        await g.chat()
        figures = await scrape(g)
    assert figures["junctor_plugin_seconds_count", "facts", "pre_route"] == 1
    assert figures["junctor_plugin_seconds_sum", "fakeprovider", "call"] > 0.045


async def test_failures_of_plugins_are_counted(metered, scrape):
    class Broken:
        @hookimpl
        async def post_call(self, exchange):
            raise ValueError("a bug")

    async with metered(Broken(), FakeProvider()) as g:
        await g.chat()
        figures = await scrape(g)
    assert figures["junctor_plugin_failures_total", "broken", "post_call"] == 1


async def test_what_runs_now_is_shown(metered, scrape):
    async with metered(FakeProvider(script=[0.1])) as g:
        running = asyncio.create_task(g.chat())
        await asyncio.sleep(0.02)
        assert (await scrape(g))["junctor_requests_in_flight",] == 1
        await running
        assert (await scrape(g))["junctor_requests_in_flight",] == 0


async def test_a_busy_event_loop_shows_as_lag(metered, scrape):
    import time

    async with metered(FakeProvider()) as g:
        await asyncio.sleep(0.05)
        time.sleep(0.4)
        await asyncio.sleep(0.05)
        figures = await scrape(g)
    assert figures["junctor_event_loop_lag_seconds_sum",] > 0.1


async def test_a_models_name_that_nobody_configured_is_no_label(metered, scrape):
    async with metered(FakeProvider()) as g:
        await g.chat(model="no-such-model-of-a-client")
        answer = await g.request("GET", "/metrics")
        figures = await scrape(g)
    assert b"no-such-model" not in answer.body
    assert figures["junctor_errors_total", "other", "model_not_found"] == 1


async def test_labels_are_capped_and_the_rest_is_other(metered, scrape):
    facts = Facts()
    async with metered(facts, FakeProvider(), settings={"max_label_values": 3}) as g:
        for number in range(10):
            facts.team = f"team-{number}"
            await g.chat()
        figures = await scrape(g)
    teams = {key[3]: value for key, value in figures.items() if key[0] == "junctor_requests_total"}
    assert teams == {"team-0": 1, "team-1": 1, "team-2": 1, "other": 7}
    assert figures["junctor_labels_capped_total", "team"] > 0


async def test_the_label_sets_of_a_metric_are_capped_as_a_whole(metered, scrape):
    facts = Facts()
    async with metered(facts, FakeProvider(), settings={"max_series": 5}) as g:
        for number in range(20):
            facts.team = f"team-{number}"
            await g.chat()
        figures = await scrape(g)
    rows = [value for key, value in figures.items() if key[0] == "junctor_requests_total"]
    assert len(rows) == 6
    assert sum(rows) == 20


async def test_no_key_prompt_or_request_id_is_shown(metered):
    secret = "sk-canary-1234567890abcdef"
    headers = {"authorization": f"Bearer {secret}", "x-request-id": "canary-request"}
    script = [ProviderError(f"bad key {secret}", kind=ErrorKind.AUTHENTICATION), "canary-answer"]
    async with metered(FakeProvider(script=script)) as g:
        for _ in range(2):
            await g.chat("canary-prompt", headers=headers, user=secret)
        body = (await g.request("GET", "/metrics")).body
    assert b"canary" not in body


async def test_the_gateways_own_questions_are_counted_apart(metered, scrape):
    async with metered(FakeProvider()) as g:
        await g.gateway.ask("chat", {"model": "test", "messages": []}, purpose="judge")
        figures = await scrape(g)
    assert figures["junctor_requests_total", "test", "chat", "", "judge", "answered"] == 1
    assert ("junctor_request_duration_seconds_count", "test", "chat") not in figures
