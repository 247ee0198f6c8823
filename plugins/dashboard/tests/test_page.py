"""The page in a real browser: contents, live updates, search, stories, and what it says where there is nothing."""


def test_shows_the_figures_of_what_happened(page, everything):
    for number in range(3):
        everything.chat(f"contents-{number}", seed=number)
    page.log_in(everything.root).shows("contents-2")
    page.shows("in the last minute", "#tiles")
    page.shows("healthy", "#targets")
    assert "gpt-4o-mini" in page.text("#targets")
    page.shows("look-ups", "#caches")
    page.shows("$0.000", "#costs")
    assert page.text("#status") == "live"


def test_a_request_appears_within_a_second(page, everything):
    page.log_in(everything.root).shows("live", "#status")
    page.shows("Requests", "#tiles")
    everything.chat("quick-as-it", seed=77)
    assert page.shows("quick-as-it", "#exchanges", 5) < 1.0
