"""Takes the pictures in `docs/img`: a gateway with invented teams, providers and traffic, in Chromium.

python plugins/dashboard/screenshots.py [--seconds 110] [--into docs/img]
"""

from __future__ import annotations

import argparse
import base64
import random
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "tests"))

from junctor.faults import answer, status  # noqa: E402
from junctor.testing import Served, serving  # noqa: E402

from conftest import Page, browsing, configured, providing  # noqa: E402

if TYPE_CHECKING:
    from junctor.faulty_server import Reply

TEAMS = {
    "search": ["ranking", "summaries"],
    "support": ["replies", "triage"],
    "growth": ["campaigns"],
    "research": [""],
}
WORDS = ("all happy families are alike", "each unhappy family is unhappy", "in its own way", "and so is each gateway")


def _varied(least: float, most: float, failing: float = 0.0) -> Any:
    """A provider whose answers take different times, and that fails now and then."""

    async def act(reply: Reply) -> None:
        if random.random() < failing:
            await status(503, error="overloaded", message="the engine is overloaded")(reply)
            return
        text = " ".join(random.choices(WORDS, k=random.randint(2, 6)))
        await answer(text, delay=random.uniform(least, most), between=random.uniform(0.002, 0.012))(reply)

    return act


def _target(name: str, url: str, price: tuple[float, float]) -> dict[str, Any]:
    return {"target": name, "api_key": "k" * 20, "base_url": url, "price": {"input": price[0], "output": price[1]}}


def _config(urls: list[str], folder: Path) -> dict[str, Any]:
    quick, good, shaky = urls
    models = [
        {
            "name": "fast",
            "targets": [
                _target("openai/gpt-4o-mini", quick, (1.5, 6)),
                _target("groq/llama-3.3-70b", shaky, (0.6, 0.8)),
            ],
        },
        {
            "name": "smart",
            "targets": [_target("openai/gpt-4o", good, (5, 20)), _target("mistral/mistral-large", quick, (4, 12))],
        },
        {"name": "cheap", "targets": [_target("deepseek/deepseek-chat", quick, (0.3, 1.1))]},
    ]
    clients = [
        {
            "name": f"{team}-{feature or 'all'}",
            "key": f"demo-key-of-{team}-{feature}",
            "team": team,
            **({"feature": feature} if feature else {}),
        }
        for team, features in TEAMS.items()
        for feature in features
    ]
    limits = [
        {"name": "tokens", "per": "team", "tokens": 3000, "window": "minute", "soft": "80%"},
        {"name": "monthly-budget", "per": "team", "cost": 0.08, "window": "month", "soft": "70%"},
        {"name": "requests", "per": ["team", "feature"], "requests": 260, "window": "minute"},
    ]
    plugins = [
        {"logging": {"directory": str(folder), "flush": 0.1}},
        {"auth": {"clients": clients}},
        {"quotas": {"limits": limits}},
        {"routing": {"strategies": {"default": "weighted"}}},
        "exact_cache",
        "fallback",
    ]
    return configured("", *plugins, models=models)


def _client(served: Served, over: threading.Event, seed: int) -> None:
    chance = random.Random(seed)
    while not over.wait(chance.expovariate(3.2)):
        team = chance.choices(list(TEAMS), [5, 3, 2, 1])[0]
        key = f"demo-key-of-{team}-{chance.choice(TEAMS[team])}"
        model = chance.choices(["fast", "smart", "cheap", "gpt-9"], [60, 25, 14, 1])[0]
        fields = {"stream": True} if chance.random() < 0.5 else {}
        served.chat(model=model, key=key, seed=chance.choice([1, *[chance.getrandbits(30)] * 3]), **fields)


def _picture(page: Page, file: Path, height: int | None = None) -> None:
    size = page.js("return [innerWidth, document.documentElement.scrollHeight]")
    clip = {"x": 0, "y": 0, "width": size[0], "height": min(size[1], height or size[1]), "scale": 1}
    got = page.driver.execute_cdp_cmd("Page.captureScreenshot", {"clip": clip, "captureBeyondViewport": True})
    file.write_bytes(base64.b64decode(got["data"]))
    print(f"{file}: {file.stat().st_size // 1024} KB")


def _photograph(page: Page, served: Served, into: Path) -> None:
    page.size(1320)
    page.log_in(served.root).shows("live", "#status")
    time.sleep(3)
    # The story of one that took more than one attempt tells most.
    script = "return [...document.querySelectorAll('#exchanges tr.row')].find((r) => /attempts/.test(r.innerText))"
    page.until(lambda: page.js(script) is not None, 60)
    page.js(script + "?.querySelector('button.open').click()")
    time.sleep(1)
    for scheme in ("light", "dark"):
        page.colours(scheme)
        _picture(page, into / f"dashboard-{scheme}.png", 1960)
    page.colours("light")
    page.size(390, 844)
    time.sleep(1.5)
    _picture(page, into / "dashboard-phone.png", 2600)


def main() -> None:
    parser = argparse.ArgumentParser(description="Take the pictures of the dashboard.")
    parser.add_argument("--seconds", type=float, default=110, help="of traffic before the pictures")
    parser.add_argument("--into", type=Path, default=HERE.parent.parent / "docs" / "img")
    given = parser.parse_args()
    given.into.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        providers = [_varied(0.05, 0.25), _varied(0.2, 0.7), _varied(0.1, 0.3, failing=0.2)]
        urls = [stack.enter_context(providing(each)) for each in providers]
        served = stack.enter_context(serving(_config(urls, folder), folder))
        over = threading.Event()
        clients = [threading.Thread(target=_client, args=(served, over, seed)) for seed in range(5)]
        for client in clients:
            client.start()
        try:
            with browsing(folder / "profile") as driver:
                time.sleep(given.seconds)
                _photograph(Page(driver), served, given.into)
        finally:
            over.set()
            for client in clients:
                client.join()


if __name__ == "__main__":
    main()
