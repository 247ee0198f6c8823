"""Who goes next: tiers, weights, fairness, and what is shed."""

from __future__ import annotations

import asyncio
from collections import Counter
from time import monotonic

import pytest
from junctor import Client
from junctor.testing import FakeProvider
from junctor_quotas.queue import FairQueue, Full
from junctor_quotas.settings import QueueSettings
from junctor_quotas.steps import Outcome


class Place:
    """One place: whoever's turn it is gets it, one after the other."""

    def __init__(self, *, pace=0.0, **settings):
        self.pace = pace
        self.queue = FairQueue(QueueSettings(**settings))
        self.order = []
        self.open = False

    def ask(self, name, *, team="", tier="", deadline=5.0):
        async def attempt():
            if not self.open:
                return Outcome([], 0.0), True
            await asyncio.sleep(self.pace)
            self.order.append(name)
            return Outcome([], 0.0, admitted=True), False

        client = Client(team=team, tier=tier)
        return asyncio.create_task(self.queue.wait(client, monotonic() + deadline, attempt, lambda place: None))

    async def run(self, tasks):
        """Let all come to stand in line, then open."""
        await asyncio.sleep(0.02)
        self.open = True
        return await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_listed_tier_goes_first_whoever_came_before():
    place = Place(tiers=["gold", "silver"])
    await place.run([place.ask(tier, tier=tier) for tier in ("none", "silver", "gold", "silver", "gold")])
    assert place.order == ["gold", "gold", "silver", "silver", "none"]


async def test_weights_of_tiers_share_the_places():
    place = Place(tiers={"gold": 3, "free": 1})
    free, gold = ([place.ask(tier, tier=tier) for _ in range(12)] for tier in ("free", "gold"))
    await place.run([*free, *gold])
    assert Counter(place.order[:12]) == {"gold": 9, "free": 3}


async def test_weights_of_teams_share_the_places():
    place = Place(weights={"search": 2})
    tasks = [place.ask(team, team=team) for team in ("ads", "search") for _ in range(12)]
    await place.run(tasks)
    assert Counter(place.order[:12]) == {"search": 8, "ads": 4}


async def test_a_team_that_floods_only_delays_itself():
    place = Place()
    flood = [place.ask("flood", team="a") for _ in range(50)]
    await asyncio.sleep(0)
    await place.run([*flood, place.ask("quiet", team="b")])
    assert place.order.index("quiet") <= 1


async def test_a_full_queue_sheds_the_newest_of_the_team_with_the_most():
    place = Place(max_length=4)
    flood = [place.ask(f"a{number}", team="a") for number in range(4)]
    await asyncio.sleep(0)
    results = await place.run([*flood, place.ask("b", team="b")])
    assert [isinstance(result, Full) for result in results] == [False, False, False, True, False]
    assert "b" in place.order


async def test_the_team_with_the_most_is_itself_refused_when_the_queue_is_full():
    place = Place(max_length=2)
    results = await place.run([place.ask("a", team="a") for _ in range(3)])
    assert [isinstance(result, Full) for result in results] == [False, False, True]


async def test_a_request_that_cannot_make_its_deadline_is_refused_at_once():
    place = Place(pace=0.02)
    await place.run([place.ask("before") for _ in range(20)])  # the queue learns how fast it moves
    waiting = [place.ask("first") for _ in range(20)]
    await asyncio.sleep(0)
    started = monotonic()
    with pytest.raises(Full, match="20 requests wait before it") as full:
        await place.ask("late", deadline=0.1)
    assert monotonic() - started < 0.05
    assert 0.15 < full.value.seconds < 1.0
    await asyncio.gather(*waiting)


async def test_waiting_ends_with_the_deadline_or_the_longest_wait():
    for place, deadline in ((Place(max_wait=5.0), 0.05), (Place(max_wait=0.05), 5.0)):
        started = monotonic()
        with pytest.raises(Full):
            await place.ask("late", deadline=deadline)
        assert 0.04 <= monotonic() - started < 1.0
        assert len(place.queue) == 0


async def test_a_request_that_gives_up_leaves_its_place_to_the_next():
    place = Place()
    first, second = place.ask("first"), place.ask("second")
    await asyncio.sleep(0.02)
    first.cancel()
    await place.run([second])
    assert place.order == ["second"]


async def test_a_wait_for_the_window_that_is_longer_than_the_time_left_is_refused_at_once():
    queue = FairQueue(QueueSettings())

    async def attempt():
        return Outcome([(5, 0, 5)], 0.0, wait=20.0), True

    started = monotonic()
    outcome = await queue.wait(Client(), monotonic() + 2.0, attempt, lambda place: None)
    assert not outcome.admitted
    assert monotonic() - started < 0.5


async def test_a_client_hears_its_place_and_how_long_it_waited(limited):
    limits = [{"name": "places", "concurrency": 1}]
    async with limited(FakeProvider(script=[0.05]), limits=limits) as g:
        answers = await asyncio.gather(*(g.chat() for _ in range(3)))
    places = sorted(answer.headers.get("x-junctor-queue-position", "") for answer in answers)
    assert places == ["", "1", "2"]
    waits = [float(a.headers["x-junctor-queue-ms"]) for a in answers if "x-junctor-queue-ms" in a.headers]
    assert 40 <= min(waits) < max(waits)


async def test_a_place_is_lost_by_a_client_that_hangs_up_while_it_waits(limited):
    gone = asyncio.Event()
    limits = [{"name": "places", "concurrency": 1}]
    async with limited(FakeProvider(script=[0.2]), limits=limits) as g:
        running = asyncio.create_task(g.chat())
        await asyncio.sleep(0.05)
        waiting = asyncio.create_task(g.chat(hang_up=gone))
        await asyncio.sleep(0.05)
        gone.set()
        await asyncio.gather(running, waiting)
        assert (await g.chat()).status == 200
