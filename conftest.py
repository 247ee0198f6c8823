"""What all tests of this repository share."""

import os

import pytest


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Junctor runs on asyncio; a package that brings trio along does not change that."""
    return "asyncio"


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """With JUNCTOR_TEST_REQUIRE=all whatever was skipped, for whatever reason, is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    skipped = reporter.stats.get("skipped", []) if reporter is not None else []
    if skipped and os.environ.get("JUNCTOR_TEST_REQUIRE") == "all":
        for report in skipped:
            reporter.write_line(
                f"JUNCTOR_TEST_REQUIRE=all, but skipped: {report.nodeid}: {report.longrepr[-1]}", red=True
            )
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
