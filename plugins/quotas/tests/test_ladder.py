"""The steps on the way to a limit, through a running gateway."""

from __future__ import annotations

import asyncio
import logging

from junctor.testing import FakeProvider, Recorder


def _limit(at, **fields):
    return {"name": "lim", "requests": 10, "window": "hour", **fields, "at": at}


async def test_a_warning_begins_at_its_rung_and_is_logged_once(limited, caplog):
    async with limited(FakeProvider(), limits=[_limit({"50%": "warn"})]) as g:
        with caplog.at_level(logging.WARNING, "junctor.quotas"):
            answers = [await g.chat() for _ in range(8)]
    warned = [answer.headers.get("x-junctor-quota-warning") for answer in answers]
    assert warned == [None] * 4 + ["lim 50%", "lim 60%", "lim 70%", "lim 80%"]
    assert sum("limit 'lim' of global" in record.message for record in caplog.records) == 1


async def test_a_soft_value_warns_as_a_share_does(limited):
    limits = [{"name": "lim", "requests": 10, "window": "hour", "soft": 8, "on_soft": ["warn", "prefer_cheaper"]}]
    recorder = Recorder()
    async with limited(FakeProvider(), recorder, limits=limits) as g:
        answers = [await g.chat() for _ in range(8)]
    assert ["x-junctor-quota-warning" in answer.headers for answer in answers] == [False] * 7 + [True]
    assert [exchange.facts.get("prefer_cheaper") for exchange, _, _ in recorder.ended] == [None] * 7 + [True]


async def test_a_rung_that_refuses_early_moves_the_limit(limited):
    async with limited(FakeProvider(), limits=[_limit({"40%": "warn", "80%": "refuse"})]) as g:
        answers = [await g.chat() for _ in range(9)]
    assert [answer.status for answer in answers] == [200] * 8 + [429]
    assert next(n for n, answer in enumerate(answers, 1) if "x-junctor-quota-warning" in answer.headers) == 4


async def test_what_does_not_fit_whole_is_tried_again_with_a_shorter_answer(limited, rows):
    provider = FakeProvider(usage=(7, 20))
    limits = [{"name": "lim", "tokens": 300, "window": "hour", "at": {"95%": {"cap_max_tokens": 50}}}]
    async with limited(provider, limits=limits) as g:
        answer = await g.chat(max_tokens=5000)
        row = (await rows(g))["lim"]
    assert answer.status == 200
    assert answer.headers["x-junctor-max-tokens-capped"] == "50"
    assert provider.calls[0][1]["max_tokens"] == 50
    assert (row["used"], row["reserved"]) == (27, 0)


async def test_even_the_shorter_answer_may_not_fit(limited, rows):
    provider = FakeProvider()
    limits = [{"name": "lim", "tokens": 60, "window": "hour", "at": {"95%": {"cap_max_tokens": 50}}}]
    async with limited(provider, limits=limits) as g:
        assert (await g.chat(max_tokens=5000)).status == 429
        assert not provider.calls
        assert await rows(g) == {} or (await rows(g))["lim"]["reserved"] == 0


async def test_a_shortened_stream_holds_what_it_was_shortened_to(limited, rows):
    provider = FakeProvider("w " * 60, chunk_delay=0.002, usage=(7, 60))
    limits = [{"name": "lim", "output_tokens": 64, "window": "hour", "at": {"95%": {"cap_max_tokens": 60}}}]
    async with limited(provider, limits=limits) as g:
        answer = await g.chat(stream=True)
        assert answer.events[-1] == "[DONE]"
        assert (await rows(g))["lim"]["used"] == 60


async def test_the_client_s_own_name_of_the_maximum_is_kept(limited):
    provider = FakeProvider()
    limits = [_limit({"5%": {"cap_max_tokens": 16}})]
    async with limited(provider, limits=limits) as g:
        await g.chat(max_completion_tokens=500)
        await g.chat(max_tokens=8)
    assert provider.calls[0][1]["max_completion_tokens"] == 16
    assert "max_tokens" not in provider.calls[0][1]
    assert provider.calls[1][1]["max_tokens"] == 8


async def test_behind_a_queue_rung_requests_stand_in_line_up_to_the_limit(limited):
    limits = [{"name": "lim", "requests": 10, "window": "hour", "at": {"50%": "queue"}}]
    async with limited(FakeProvider(), limits=limits, queue={"max_wait": 5}) as g:
        answers = [await g.chat() for _ in range(11)]
    waited = ["x-junctor-queue-position" in answer.headers for answer in answers[:10]]
    assert waited == [False] * 5 + [True] * 5
    assert [answer.status for answer in answers] == [200] * 10 + [429]
    assert int(answers[-1].headers["retry-after"]) > 3000  # an hour is longer than anybody waits


async def test_behind_a_queue_rung_a_request_waits_until_the_window_has_room(limited):
    limits = [{"name": "lim", "requests": 3, "window": "1s", "at": {"60%": "queue"}}]
    async with limited(FakeProvider(), limits=limits) as g:
        answers = await asyncio.gather(*(g.chat() for _ in range(6)))
    assert [answer.status for answer in answers] == [200] * 6
    assert max(float(answer.headers.get("x-junctor-queue-ms", 0)) for answer in answers) >= 900


async def test_routing_is_told_how_much_of_the_budget_is_used(limited):
    recorder = Recorder()
    limits = [{"name": "lim", "requests": 2, "window": "day"}]
    async with limited(FakeProvider(), recorder, limits=limits) as g:
        await g.chat()
    assert recorder.last.facts["budget_used"] == 0.5
    assert recorder.last.facts["quota"] == {"limit": "lim", "scope": "global", "share": 0.5, "store": "shared"}
