"""The page in a real browser: contents, live updates, search, stories, and what it says where there is nothing."""

import time

import pytest
from junctor.testing import serving

# What keeps the stream from going on before it is read: the figures are made once a second.
SECOND = 1.0


def problems(page):
    """What the browser's console says of the page's own faults."""
    return [entry["message"] for entry in page.driver.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]


def test_shows_the_figures_of_what_happened(page, everything):
    for number in range(3):
        everything.chat(f"contents-{number}", seed=number)
    page.log_in(everything.root).shows("contents-2")
    page.shows("in the last minute", "#tiles")
    page.shows("healthy", "#targets")
    assert "gpt-4o-mini" in page.text("#targets")
    page.shows("look-ups", "#caches")
    page.shows("no team", "#costs")
    assert page.text("#status") == "live"
    assert "null" not in page.text()


def test_a_request_appears_within_a_second(page, everything):
    page.log_in(everything.root).shows("live", "#status")
    page.shows("Requests", "#tiles")
    everything.chat("quick-as-it", seed=77)
    assert page.shows("quick-as-it", "#exchanges", 5) < SECOND


def test_tells_the_story_of_an_exchange(page, everything):
    everything.chat("the-story", seed=5)
    page.log_in(everything.root).shows("the-story", "#exchanges")
    page.one("button[title=the-story]").click()
    story = "tr.told"
    page.shows("Route decision", story)
    told = page.text(story)
    for words in ("openai/gpt-4o-mini", "exact_cache", "Time in plugins", "9 in, 6 out"):
        assert words in told
    assert page.one("button[title=the-story]").get_attribute("aria-expanded") == "true"
    assert "[object" not in told


def test_the_story_stays_open_while_others_come(page, everything):
    everything.chat("stays-open", seed=6)
    page.log_in(everything.root).shows("stays-open", "#exchanges")
    page.one("button[title=stays-open]").click()
    page.shows("Route decision", "tr.told")
    everything.chat("after-it", seed=7)
    time.sleep(1.3)
    assert "Route decision" in page.text("tr.told")


def test_finds_a_request_by_its_id_in_the_log_when_memory_has_lost_it(page, configure, tmp_path):
    config = configure({"logging": {"directory": str(tmp_path), "flush": 0.05}})
    config["plugins"][0] = {"dashboard": {"recent": 10}}
    with serving(config, tmp_path) as served:
        for number in range(12):
            served.chat("long-gone-id" if number == 0 else f"newer-{number}")
        page.log_in(served.root).shows("newer-11", "#exchanges")
        assert "long-gone-id" not in page.text("#exchanges")
        page.one("#exchanges input").send_keys("long-gone-id")
        page.shows("long-gone-id", "#exchanges tbody")
        page.one("button[title=long-gone-id]").click()
        page.shows("9 in, 6 out", "tr.told")
        assert "openai/gpt-4o-mini" in page.text("tr.told")


def test_shows_only_problems_when_asked(page, everything):
    everything.chat("a-problem", model="no-such-model")
    everything.chat("no-problem", seed=9)
    page.log_in(everything.root).shows("no-problem", "#exchanges")
    page.js("[...document.querySelectorAll('#exchanges button')].find((b) => b.innerText === 'Problems').click()")
    page.until(lambda: "no-problem" not in page.text("#exchanges tbody"))
    assert "refused 404" in page.text("#exchanges tbody")


def test_a_script_in_a_request_is_shown_as_text(page, everything):
    everything.chat("xss", model="<img src=x onerror=document.title='owned'>")
    page.log_in(everything.root).shows("<img src=x", "#exchanges")
    assert page.driver.title == "Junctor"


def test_costs_can_be_seen_by_model_and_over_a_day(page, everything):
    everything.chat(seed=10)
    page.log_in(everything.root).shows("in all", "#costs")
    for button, words in (("Model", "test"), ("24 h", "in all"), ("30 d", "today")):
        page.js(
            "[...document.querySelectorAll('#costs button')].find((b) => b.innerText === arguments[0]).click()", button
        )
        page.shows(words, "#costs")


def test_says_what_to_enable_where_there_is_nothing(page, plain):
    page.log_in(plain.root).shows("No exchange yet")
    page.shows("Enable quotas under plugins:", "#quotas")
    page.shows("Enable exact_cache", "#caches")
    page.shows("Enable semantic_cache", "#caches")
    page.shows("Enable fallback to see circuits", "#targets")
    page.shows("Nothing was spent", "#costs")
    page.js("[...document.querySelectorAll('#costs button')].find((b) => b.innerText === '24 h').click()")
    page.shows("enable logging", "#costs")


def test_a_wrong_key_is_refused_and_the_right_one_opens_the_page(page, plain):
    page.log_in(plain.root, "not-the-key-of-it").shows("This is not the admin key.")
    assert page.driver.get_cookies() == []
    page.log_in(plain.root).shows("live", "#status")
    (cookie,) = page.driver.get_cookies()
    assert (cookie["httpOnly"], cookie["sameSite"], cookie["path"]) == (True, "Strict", "/dashboard")
    assert page.js("return document.cookie") == ""


def test_logging_out_leads_back_to_the_login(page, plain):
    page.log_in(plain.root).shows("live", "#status")
    page.one("header form button").click()
    page.shows("Admin key")
    page.open(plain.root)
    assert page.driver.current_url.endswith("/dashboard/login")


def test_nothing_on_the_page_is_against_its_own_policy(page, everything):
    page.log_in(everything.root).shows("live", "#status")
    everything.chat("policy", seed=12)
    page.shows("policy", "#exchanges")
    page.one("button[title=policy]").click()
    page.shows("Time in plugins", "tr.told")
    assert problems(page) == []


@pytest.mark.parametrize("width", [360, 768])
def test_nothing_is_wider_than_a_small_screen(page, everything, width):
    page.size(width, 800)
    everything.chat("narrow", seed=13)
    page.log_in(everything.root).shows("narrow", "#exchanges")
    page.one("button[title=narrow]").click()
    page.shows("Time in plugins", "tr.told")
    assert page.js("return document.documentElement.scrollWidth") <= width


def test_follows_the_persons_choice_of_colours(page, everything):
    page.log_in(everything.root).shows("live", "#status")
    background = "return getComputedStyle(document.body).backgroundColor"
    light = page.js(background)
    page.colours("dark")
    assert (light, page.js(background)) == ("rgb(245, 246, 248)", "rgb(17, 21, 28)")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing(page, everything, scheme):
    page.colours(scheme)
    everything.chat(f"axe-{scheme}", seed=14)
    everything.chat(model="no-such-model")
    page.log_in(everything.root).shows(f"axe-{scheme}", "#exchanges")
    page.shows("in all", "#costs")
    page.one(f"button[title=axe-{scheme}]").click()
    page.shows("Time in plugins", "tr.told")
    assert page.violations() == []


def test_axe_finds_nothing_at_the_login(page, plain):
    page.open(plain.root)
    assert page.violations() == []


def test_the_keyboard_reaches_everything_and_opens_a_story(page, everything):
    everything.chat("by-keyboard", seed=15)
    page.log_in(everything.root).shows("by-keyboard", "#exchanges")
    everything_there = page.js(
        "return [...document.querySelectorAll('a, button, input, select, [tabindex=\"0\"]')]"
        ".filter((e) => e.type !== 'hidden' && e.checkVisibility()).length"
    )
    page.js("document.body.focus(); window.reached = new Set()")
    active = page.driver.switch_to.active_element
    for _ in range(everything_there + 5):
        active.send_keys("\ue004")
        active = page.driver.switch_to.active_element
        page.js("reached.add(document.activeElement)")
    assert page.js("return [...reached].filter((e) => e !== document.body).length") >= everything_there
    page.driver.switch_to.active_element.send_keys("\ue004")
    assert page.js("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    page.one("button[title=by-keyboard]").send_keys("\ue007")
    page.shows("Time in plugins", "tr.told")
