"""A stream that breaks: the page says so, and is live again by itself."""

from junctor.testing import free_port, serving


def test_a_broken_stream_is_told_and_opened_again(page, configure, tmp_path):
    port, config = free_port(), configure()
    with serving(config, tmp_path, port=port) as served:
        page.log_in(served.root).shows("live", "#status")
    page.shows("reconnecting", "#status")
    with serving(config, tmp_path, port=port) as served:
        page.shows("live", "#status", 20)
        served.chat("back-again")
        page.shows("back-again", "#exchanges")
    assert page.js("return document.querySelector('#status').getAttribute('role')") == "status"


def test_a_changed_admin_key_leads_to_the_login(page, configure, tmp_path):
    port, config = free_port(), configure()
    with serving(config, tmp_path, port=port) as served:
        page.log_in(served.root).shows("live", "#status")
    with serving({**config, "admin": {"key": "another-key-than-before"}}, tmp_path, port=port):
        page.shows("Admin key", seconds=20)
