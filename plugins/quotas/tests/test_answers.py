"""Headers and refusals, by the wire that the client speaks."""

from __future__ import annotations

import pytest
from junctor_quotas.answers import duration, limit_headers, refusal, store_down
from junctor_quotas.limits import Limits, compile_limits
from junctor_quotas.settings import LimitSettings

NOW = 1_767_225_600.0  # 2026-01-01T00:00:00Z


def _reading(counts, **fields):
    limits = Limits(compile_limits([LimitSettings(**fields)]))
    return limits.at(limits.all[0], "team=a", "all", NOW), counts


REQUESTS = {"name": "rpm", "requests": 10, "window": "minute"}
TOKENS = {"name": "tpm", "tokens": 1000, "window": "day"}


def test_anthropic_s_wire_has_its_own_names_and_times():
    readings = [_reading((4, 0, 10), **REQUESTS), _reading((100, 50, 1000), **TOKENS)]
    assert limit_headers(readings, NOW, "anthropic") == {
        "anthropic-ratelimit-requests-limit": "10",
        "anthropic-ratelimit-requests-remaining": "6",
        "anthropic-ratelimit-requests-reset": "2026-01-01T00:01:03Z",
        "anthropic-ratelimit-tokens-limit": "1000",
        "anthropic-ratelimit-tokens-remaining": "850",
        "anthropic-ratelimit-tokens-reset": "2026-01-02T00:00:00Z",
    }


def test_openai_s_wire_has_durations():
    headers = limit_headers([_reading((100, 50, 1000), **TOKENS)], NOW, "openai")
    assert headers == {
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "850",
        "x-ratelimit-reset-tokens": "24h0m0s",
    }


def test_the_tightest_limit_is_told():
    wide, narrow = _reading((10, 0, 1000), **TOKENS), _reading((80, 0, 100), **{**TOKENS, "name": "narrow"})
    for readings in ([wide, narrow], [narrow, wide]):
        assert limit_headers(readings, NOW, "openai")["x-ratelimit-remaining-tokens"] == "20"


def test_money_and_places_have_no_header():
    readings = [_reading((1, 0, 10), name="b", cost=1, window="day"), _reading((0, 1, 2), name="c", concurrency=2)]
    assert limit_headers(readings, NOW, "openai") == {}


@pytest.mark.parametrize("wire", ["openai", "anthropic"])
def test_a_refusal_of_a_rate_says_when_there_is_room(wire):
    reading = _reading((10, 0, 10), **REQUESTS)
    refused = refusal(reading, 12.5, NOW, [reading], wire)
    assert (refused.status_code, refused.retry_after) == (429, 12.5)
    assert "10 of 10 requests per minute; there is room again at 2026-01-01T00:00:12Z" in refused.message
    assert any(name.endswith("remaining") or "remaining-requests" in name for name in refused.headers)


def test_a_refusal_of_a_budget_says_dollars_and_the_reset():
    reading = _reading((1_500_000_000, 0, 2_000_000_000), name="budget", cost=2, window="month")
    refused = refusal(reading, None, NOW, [reading], "openai")
    assert "1.5 of 2 dollars per month; it resets at 2026-02-01T00:00:00Z" in refused.message
    assert refused.headers["x-should-retry"] == "false"
    assert refused.retry_after is None


def test_a_request_larger_than_the_limit_is_not_to_be_tried_again():
    reading = _reading((0, 0, 1000), **TOKENS)
    refused = refusal(reading, -1, NOW, [reading], "openai")
    assert (refused.code, refused.headers["x-should-retry"]) == ("request_exceeds_limit", "false")


def test_without_a_store_the_client_is_told_to_come_back():
    refused = store_down()
    assert (refused.status_code, refused.code, refused.retry_after) == (503, "quota_store_unavailable", 1.0)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0ms"), (0.12, "120ms"), (1.5, "1.5s"), (60, "1m0s"), (3725, "1h2m5s"), (59.9996, "1m0s")]
)
def test_durations_are_written_as_openai_writes_them(seconds, text):
    assert duration(seconds) == text
