"""A gateway in a process of its own, a provider in this one, and a real Chromium before them."""

import asyncio
import shutil
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from junctor.faults import answer
from junctor.faulty_server import FaultyServer
from junctor.testing import require, serving

AXE = Path(__file__).parents[3] / "tests" / "node_modules" / "axe-core" / "axe.min.js"
KEY = "the-admin-key-of-this-test"
FLAGS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-features=OptimizationHints,MediaRouter,Translate",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


@contextmanager
def providing(*faults):
    """A provider on an event loop of its own thread; its base URL."""
    loop, begun, box = asyncio.new_event_loop(), threading.Event(), {}

    async def serve():
        async with FaultyServer(*(faults or [answer()])) as server:
            box["url"], box["over"] = server.url, asyncio.Event()
            begun.set()
            await box["over"].wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    begun.wait(10)
    try:
        yield box["url"]
    finally:
        loop.call_soon_threadsafe(box["over"].set)
        thread.join(10)
        loop.close()


def configured(url, *plugins, models=None, **more):
    """A configuration with one model `test`, the dashboard first."""
    target = {"target": "openai/gpt-4o-mini", "api_key": "k" * 20, "base_url": url, "price": {"input": 1, "output": 2}}
    models = models or [{"name": "test", "targets": [target]}]
    return {
        "admin": {"key": KEY},
        "models": models,
        "plugins": [{"dashboard": {"login_attempts": 1000}}, *plugins, "relay"],
        **more,
    }


@pytest.fixture(scope="session")
def provider():
    with providing() as url:
        yield url


@pytest.fixture(scope="session")
def provide():
    """`with provide(fault, …) as url`: a provider of a test's own."""
    return providing


@pytest.fixture(scope="session")
def everything(provider, tmp_path_factory):
    """A gateway with the plugins that have something to show."""
    folder = tmp_path_factory.mktemp("everything")
    logging = {"logging": {"directory": str(folder), "flush": 0.05}}
    with serving(configured(provider, logging, "routing", "exact_cache", "fallback"), folder) as served:
        yield served


@pytest.fixture(scope="session")
def plain(provider, tmp_path_factory):
    """A gateway with nothing but the dashboard."""
    with serving(configured(provider), tmp_path_factory.mktemp("plain")) as served:
        yield served


@contextmanager
def browsing(folder):
    """A Chromium that reaches nothing but this machine."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    require(browser and driver, "no chromium and chromedriver (apt install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in [*FLAGS, f"--user-data-dir={folder}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    try:
        yield started
    finally:
        started.quit()


@pytest.fixture(scope="session")
def chromium(tmp_path_factory):
    """One browser for all tests."""
    with browsing(tmp_path_factory.mktemp("profile")) as driver:
        yield driver


class Page:
    """What a person sees and does."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, root):
        self.driver.get(f"{root}/dashboard")

    def log_in(self, root, key=KEY):
        self.open(root)
        if self.driver.current_url.endswith("/login"):
            self.one("#key").send_keys(key)
            self.one("button").click()
        return self

    def one(self, selector):
        return self.driver.find_element("css selector", selector)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def text(self, selector="body"):
        return self.js("return document.querySelector(arguments[0])?.innerText ?? ''", selector)

    def js(self, script, *arguments):
        return self.driver.execute_script(script, *arguments)

    def until(self, condition, seconds=8.0):
        """Wait until it is true; how many seconds that took."""
        began = time.monotonic()
        while time.monotonic() < began + seconds:
            if condition():
                return time.monotonic() - began
            time.sleep(0.02)
        raise AssertionError(f"not within {seconds} s; the page says:\n{self.text()}")

    def shows(self, text, selector="body", seconds=8.0):
        return self.until(lambda: text in self.text(selector), seconds)

    def row(self, panel, name):
        """What the row that begins with this name says, its lines joined."""
        script = (
            "return [...document.querySelectorAll(arguments[0] + ' tr.row')]"
            ".find((row) => row.innerText.trim().startsWith(arguments[1]))?.innerText ?? ''"
        )
        return " ".join(self.js(script, panel, name).split())

    def says(self, panel, name, *words):
        """Wait until the row says all of these words."""
        return self.until(lambda: all(word in self.row(panel, name) for word in words))

    def violations(self):
        """What axe finds; it is put into the page by the driver, past the page's own policy."""
        require(AXE.exists(), "run `npm install --prefix tests`")
        self.js(AXE.read_text() + "\nwindow.axe = axe;")
        script = "const done = arguments[arguments.length - 1]; axe.run().then((found) => done(found.violations))"
        found = self.driver.execute_async_script(script)
        return [(one["id"], [node["html"][:200] for node in one["nodes"]]) for one in found]

    def size(self, width, height=1000):
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def colours(self, scheme):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


@pytest.fixture
def page(chromium):
    chromium.get_log("browser")
    page = Page(chromium)
    page.size(1280)
    page.colours("light")
    yield page
    chromium.get("about:blank")
    chromium.execute_cdp_cmd("Network.clearBrowserCookies", {})


@pytest.fixture(scope="session")
def configure(provider):
    """`configure(plugin, …, models=…)`: a configuration with the dashboard first."""
    return lambda *plugins, **more: configured(provider, *plugins, **more)
