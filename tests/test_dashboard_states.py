"""The dashboard's panel of the semantic cache in a real browser: hits, money, measured errors, shadow, trouble."""

from __future__ import annotations

import importlib.util
import itertools
import json
import time
import urllib.request
from pathlib import Path

import pytest
from junctor.faults import answer
from junctor.testing import serving

_file = Path(__file__).parents[1] / "plugins" / "dashboard" / "tests" / "conftest.py"
_spec = importlib.util.spec_from_file_location("dashboard_kit", _file)
kit = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(kit)
chromium, page = kit.chromium, kit.page

FIRST = "how do I fold a napkin"
WORDS = [
    f"{before}{how} fold a {what}napkin"
    for before in ("", "please, ", "tell me, ", "hello, ")
    for what in ("", "table ", "paper ", "dinner ")
    for how in ("how can I", "how do you", "how to", "how should I")
]
OTHERS = [f"other-{number}" for number in range(8)]
NOWHERE = "http://127.0.0.1:9/v1"


class Provider:
    """Says the same to everybody; once something else after `changes`, so that a hit may be found to be wrong."""

    def __init__(self):
        self.other = False

    def changes(self):
        self.other = True

    async def __call__(self, reply):
        if reply.asked.path.endswith("/embeddings"):  # all texts mean the same
            return await reply.whole(json.dumps({"data": [{"index": 0, "embedding": [1.0, 0.5]}]}).encode())
        other, self.other = self.other, False
        return await answer("Fold it thrice." if other else "Fold it twice.")(reply)


def configured(url, store, **more):
    price = {"input": 1000, "output": 2000}  # an answer costs $0.021
    target = {"target": "openai/one", "api_key": "k" * 20, "base_url": url, "price": price}
    models = [{"name": name, "targets": [target]} for name in ("faq", "quiet", "embeds", *OTHERS)]
    # Much may be wrong, so that little traffic is enough to serve; every hit is asked again.
    cache = {"max_wrong": "60%", "verify": "100%", "namespaces": {"quiet": {"mode": "shadow"}}}
    cache |= {"store": {"path": str(store), "timeout": "5s"}, "lookup_timeout": "5s"}
    return kit.configured(url, {"semantic_cache": cache | more}, models=models)


def report(served, name):
    """What `GET /admin/semantic-cache` says of a namespace."""
    headers = {"authorization": f"Bearer {kit.KEY}"}
    request = urllib.request.Request(f"{served.root}/admin/semantic-cache", headers=headers)
    with urllib.request.urlopen(request, timeout=10) as told:
        return json.load(told)["namespaces"].get(name) or dict.fromkeys(("hits", "exact_hits", "verified"), 0)


def asked(served, model, enough):
    """Ask in ever new words until it is enough; the report once all hits that were served have been asked again."""
    until, words = time.monotonic() + 30, itertools.cycle(WORDS)
    while True:
        for text in (FIRST, *itertools.islice(words, 4)):
            assert served.chat(model=model, text=text) == 200
        found = report(served, model)
        while found["hits"] != found["verified"]:
            assert time.monotonic() < until, found
            time.sleep(0.02)
            found = report(served, model)
        if enough(found):
            return found
        assert time.monotonic() < until, found


@pytest.fixture(scope="module")
def cached(tmp_path_factory):
    """A gateway that has served and been wrong once; the reports of what it serves and of what it only watches."""
    folder, provider = tmp_path_factory.mktemp("cached"), Provider()
    with kit.providing(provider) as url, serving(configured(url, folder / "store"), folder) as served:
        asked(served, "faq", lambda found: found["hits"] > 3)
        faq = asked(served, "faq", lambda found: found["verified_wrong"] or provider.changes())
        quiet = asked(served, "quiet", lambda found: found["shadow_hits"])
        for model in OTHERS:
            assert served.chat(model=model) == 200
        yield served, faq, quiet


def share(value):
    """A share as the page writes it."""
    percent = value * 100
    if percent < 10:
        return "0 %" if not percent else "<0.1 %" if percent < 0.1 else f"{int(percent * 10 + 0.5) / 10} %"
    return f"{int(percent + 0.5)} %"


def money(value):
    return f"${value:.2f}" if value >= 1 else f"${value:.3f}"


def of_faq(told):
    """The row of the namespace `faq` as it is to read."""
    saved = f"{money(told['saved'])} paid {money(told['paid'])}"
    verified = f"{told['verified_wrong']} of {told['verified']} at most {share(told['wrong_bound_95'])} (95 %)"
    return f"faq serve {share(told['hit_rate'])} {saved} {share(told['wrong_estimate'])} allowed 60 % {verified}"


def test_hits_money_and_measured_errors_are_shown(page, cached):
    served, faq, _ = cached
    assert faq["saved"] > 0
    assert faq["paid"] > 0
    page.log_in(served.root).says("#semantic", "faq", of_faq(faq))


def test_a_shadow_says_what_it_would_have_served(page, cached):
    served, _, quiet = cached
    would = f"shadow 0 % at least {share(quiet['shadow_hits'] / quiet['requests'])} if served $0 paid $0"
    wrong = f"0 of {quiet['shadow_hits']} of what would be served"
    page.log_in(served.root).says("#semantic", "quiet", would, wrong)


def test_many_namespaces_are_searched_and_those_asked_most_stand_first(page, cached):
    page.log_in(cached[0].root).shows("8 of 10", "#semantic")
    names = page.js("return [...document.querySelectorAll('#semantic tbody .name')].map((name) => name.innerText)")
    assert set(names[:2]) == {"faq", "quiet"}
    page.one("#semantic input").send_keys("other-7")
    page.shows("1 of 10", "#semantic")
    assert page.row("#semantic", "other-7")
    assert page.violations() == []


def test_nothing_is_wider_than_a_small_screen(page, cached):
    page.size(360, 800)
    page.log_in(cached[0].root).says("#semantic", "faq", "paid")
    assert page.js("return document.documentElement.scrollWidth") <= 360


def test_says_why_requests_pass_by_beside_what_was_learned_before(page, tmp_path):
    store, embedder = tmp_path / "store", "gateway:embeds"
    with kit.providing(Provider()) as url, serving(configured(url, store, embedder=embedder), tmp_path) as served:
        before = asked(served, "faq", lambda found: found["exact_hits"])
    with serving(configured(NOWHERE, store, embedder=embedder), tmp_path) as served:
        page.log_in(served.root).shows("Requests pass by: ", "#semantic")
        page.says("#semantic", "faq", f"serve {share(before['hit_rate'])} {money(before['saved'])} paid ")
