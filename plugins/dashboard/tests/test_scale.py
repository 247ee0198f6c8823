"""Two hundred teams and five hundred models: the page stays small and quick."""

import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from junctor.testing import serving

TEAMS, MODELS = 200, 500


@pytest.fixture(scope="module")
def large(provider, configure, tmp_path_factory):
    price = {"input": 1, "output": 2}
    models = [
        {
            "name": f"m{n}",
            "targets": [{"target": f"openai/model-{n}", "api_key": "k" * 20, "base_url": provider, "price": price}],
        }
        for n in range(MODELS)
    ]
    clients = [{"name": f"c{n}", "key": f"key-of-the-team-{n:04}", "team": f"team-{n:03}"} for n in range(TEAMS)]
    limits = [{"name": "tokens", "per": "team", "tokens": 1000, "window": "minute", "soft": "80%"}]
    plugins = [{"auth": {"clients": clients}}, {"quotas": {"limits": limits}}, "routing", "fallback"]
    folder = tmp_path_factory.mktemp("large")
    with serving(configure(*plugins, models=models), folder) as served, ThreadPoolExecutor(8) as pool:
        asked = range(MODELS)
        sent = pool.map(
            lambda n: served.chat(model=f"m{n}", key=f"key-of-the-team-{n % TEAMS:04}", max_tokens=10), asked
        )
        assert set(sent) == {200}
        yield served


def test_is_drawn_quickly_and_keeps_few_elements(page, large):
    page.log_in(large.root)
    began = time.monotonic()
    page.shows("of 500", "#targets")
    page.shows("of 200", "#quotas")
    assert time.monotonic() - began < 5
    assert page.js("return document.querySelectorAll('*').length") < 3000
    cost = page.js(
        "const began = performance.now(); document.querySelector('#targets .more').click();"
        "document.body.offsetHeight; return performance.now() - began"
    )
    assert cost < 500


def test_any_of_them_is_found_by_search(page, large):
    page.log_in(large.root).shows("of 500", "#targets")
    page.one("#targets input").send_keys("model-487")
    page.shows("1 of 500", "#targets")
    assert "openai/model-487" in page.text("#targets tbody")
    page.one("#quotas input").send_keys("team-123")
    page.shows("team-123", "#quotas tbody")


def test_the_costs_of_all_are_there(page, large):
    page.log_in(large.root).shows("Show all 61", "#costs")
    page.js("[...document.querySelectorAll('#costs button')].find((b) => b.innerText === 'Model').click()")
    page.shows("m1", "#costs tbody")
