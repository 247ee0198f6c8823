"""The page when something is wrong or full: circuits, keys, limits, queues; in a real browser before a real gateway."""

import asyncio
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from junctor.faults import answer, status
from junctor.testing import serving

MODELS = ("down", "dead", "spent", "limited", "well", "slow", "once")
TEAMS = ("other", "places", "brief", "rate", "tokens", "budget")
NOWHERE = "http://127.0.0.1:9/v1"
LIMITS = [
    {"name": "at-once", "per": "team", "match": {"team": ["places", "brief"]}, "concurrency": 1},
    {"name": "hourly", "per": "team", "match": {"team": "rate"}, "requests": 3, "window": "hour"},
    {"name": "daily", "per": "team", "match": {"team": "tokens"}, "tokens": 1000, "window": "day", "soft": "50%"},
    # An answer of the provider costs $0.021.
    {"name": "money", "per": "team", "match": {"team": "budget"}, "cost": 0.1, "window": "hour", "soft": "50%"},
]
LEFT_ALONE = {
    "down": "circuit open overloaded, tried again in",
    "dead": "key refused tried again in",
    "spent": "key used up tried again in",
    "limited": "circuit open rate limited, tried again in",
    "twin": "circuit open 1 of 2 keys or addresses: cannot be reached, tried again in",
}


class Provider:
    """One that fails as its model's name says, for as long as it is `ill`; some models answer once they are `free`."""

    def __init__(self):
        self.ill = True
        self.free = {"slow": threading.Event(), "once": threading.Event()}
        self.faults = {
            "down": status(503, error="overloaded"),
            "dead": status(401, message="no such key"),
            "spent": status(429, error="insufficient_quota"),
            "limited": status(429, retry_after="500"),
        }

    async def __call__(self, reply):
        model = reply.asked.body["model"]
        while model in self.free and not self.free[model].is_set():
            await asyncio.sleep(0.01)
        await (self.faults.get(model) if self.ill and model in self.faults else answer())(reply)


def target(name, url):
    # A refused key is taken out for all targets that use it: each has its own.
    api_key, price = f"key-of-{name:-<20}", {"input": 1000, "output": 2000}
    return {"target": f"openai/{name}", "api_key": api_key, "base_url": url, "price": price}


def key(team):
    return f"key-of-the-team-{team}"


@contextmanager
def running(configure, folder, url, **circuit):
    """A gateway with a target for each of `MODELS`, one of which has two addresses, and with the limits above."""
    models = [{"name": name, "targets": [target(name, url)]} for name in MODELS]
    models += [{"name": "twins", "targets": [target("twin", NOWHERE), target("twin", url)]}]
    clients = [{"name": team, "key": key(team), "team": team} for team in TEAMS]
    fallback = {"circuit": {"min_requests": 2, "max_open": "10m", **circuit}, "retries": 0}
    routing = {"strategies": {"default": "ordered"}}
    plugins = [{"auth": {"clients": clients}}, {"quotas": {"limits": LIMITS}}, {"routing": routing}]
    with serving(configure(*plugins, {"fallback": fallback}, models=models), folder) as served:
        yield served


@pytest.fixture(scope="module")
def failing():
    return Provider()


@pytest.fixture(scope="module")
def strained(configure, provide, failing, tmp_path_factory):
    """Targets that are of no use for ten minutes, limits that are reached, requests that run and others that wait."""
    folder = tmp_path_factory.mktemp("strained")
    with (
        provide(failing) as url,
        running(configure, folder, url, open_for="10m") as served,
        ThreadPoolExecutor(8) as pool,
    ):
        for model in ("down", "dead", "spent", "limited", "twins", "well"):
            for number in range(2):
                served.chat(model=model, key=key("other"), text=f"{number}")
        assert [served.chat(key=key("rate"), model="well") for _ in range(4)] == [200, 200, 200, 429]
        assert [served.chat(key=key("budget"), model="well", max_tokens=1) for _ in range(3)] == [200] * 3
        held = [pool.submit(served.chat, key=key("tokens"), model="slow", max_tokens=590)]
        held += [pool.submit(served.chat, key=key("places"), model="slow") for _ in range(3)]
        try:
            yield served
        finally:
            failing.free["slow"].set()
        assert {one.result(20) for one in held} == {200}


def told(page, name):
    """What a screen reader is told of the limit's meter."""
    return page.js("return document.querySelector(`[role=meter][aria-label^='${arguments[0]}']`).ariaValueText", name)


def test_says_why_a_target_is_left_alone_and_until_when(page, strained):
    page.log_in(strained.root).shows("openai/well", "#targets")
    for name, words in LEFT_ALONE.items():
        row = page.row("#targets", f"openai/{name}")
        assert re.search(rf"{words} \d+ min open", row), row
    assert "twins, twins" not in page.text("#targets")


def test_what_is_left_alone_stands_first_and_is_found_by_search(page, strained):
    page.log_in(strained.root).says("#targets", "openai/well", "healthy", "closed")
    states = page.js("return [...document.querySelectorAll('#targets tbody .chip')].map((chip) => chip.innerText)")
    assert states.index("healthy") == len(LEFT_ALONE)
    page.one("#targets input").send_keys("key refused")
    page.shows("1 of 8", "#targets")
    assert "openai/dead" in page.text("#targets tbody")


def test_a_failed_exchange_names_the_target_that_was_called(page, strained):
    page.log_in(strained.root).shows("openai/well", "#exchanges")
    page.one("#exchanges input").send_keys("openai/dead")
    page.until(lambda: "openai/well" not in page.text("#exchanges tbody"))
    assert "failed 502" in page.text("#exchanges tbody")


def test_a_target_that_is_well_again_is_probed_and_takes_up_its_traffic(page, configure, provide, tmp_path):
    provider = Provider()
    with provide(provider) as url, running(configure, tmp_path, url, open_for="100ms", ramp="10m") as served:

        def ask(number):
            return served.chat(model="down", key=key("other"), text=f"{number}")

        assert [ask(number) for number in range(2)] == [503] * 2
        page.log_in(served.root).says("#targets", "openai/down", "probing", "before: overloaded", "half open")
        provider.ill = False
        assert [ask(number) for number in range(3)] == [200] * 3
        page.says("#targets", "openai/down", "recovering", "takes 10 % of its traffic again", "closed")


def test_places_in_use_and_how_many_wait_for_one(page, strained):
    page.log_in(strained.root).says("#quotas", "places", "1 of 1 in use 100 % all in use 2 waiting")
    assert told(page, "at-once") == "1 of 1 in use, 100 %"


def test_a_limit_that_refuses_is_full(page, strained):
    page.log_in(strained.root).says("#quotas", "rate", "3 of 3 requests 100 % full –")
    assert told(page, "hourly") == "3 of 3 requests used, 100 %"
    assert "refused 429" in page.text("#exchanges")


def test_what_running_requests_hold_is_told(page, strained):
    page.log_in(strained.root).says("#quotas", "tokens", "held", "over the soft mark", "resets in")
    (held,) = re.findall(r"0 of 1,000 tokens, (\d+) held", page.row("#quotas", "tokens"))
    assert 590 < int(held) < 650
    assert told(page, "daily") == f"0 of 1,000 tokens used, {held} held, {round(int(held) / 10)} %"
    assert page.js("return document.querySelector('.bar i.held').getBoundingClientRect().width") > 0


def test_a_budget_says_when_it_will_be_full(page, strained):
    page.log_in(strained.root).says("#quotas", "budget", "$0.063 of $0.100 63 %", "over the soft mark")
    row = page.row("#quotas", "budget")
    assert re.search(r"full in \d+ (s|min)", row), row
    assert told(page, "money") == "$0.063 of $0.100 used, 63 %"


def test_a_place_is_free_again_once_its_request_has_ended(page, strained, failing):
    page.log_in(strained.root).shows("places", "#quotas")
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(strained.chat, key=key("brief"), model="once")
        try:
            page.says("#quotas", "brief", "1 of 1 in use 100 % all in use")
            page.says("#targets", "openai/once", "busy")
        finally:
            failing.free["once"].set()
        assert asked.result(20) == 200
    page.says("#quotas", "brief", "0 of 1 in use 0 % in bounds")
    page.says("#targets", "openai/once", "healthy")


def test_axe_finds_nothing(page, strained):
    page.log_in(strained.root).says("#quotas", "budget", "full in")
    page.says("#targets", "openai/dead", "key refused")
    for scheme in ("light", "dark"):
        page.colours(scheme)
        assert (scheme, page.violations()) == (scheme, [])


def test_nothing_is_wider_than_a_small_screen(page, strained):
    page.size(360, 800)
    page.log_in(strained.root).says("#quotas", "places", "2 waiting")
    page.says("#targets", "openai/dead", "key refused")
    assert page.js("return document.documentElement.scrollWidth") <= 360
