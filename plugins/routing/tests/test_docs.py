"""The recipes of the documentation are configurations that pass `junctor check`."""

import re
from pathlib import Path

import pytest
import yaml
from junctor import Gateway, config

PAGE = Path(__file__).parents[3] / "docs" / "routing.md"
README = Path(__file__).parents[1] / "README.md"
BLOCKS = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", PAGE.read_text("utf-8"), re.DOTALL)]
KEYS = {"OPENAI_API_KEY": "k1", "MISTRAL_API_KEY": "k2"}


def test_the_page_has_its_recipes():
    assert len(BLOCKS) == 7


def models():
    """The page's own, with prices, so that the strategies that need them can be checked offline."""
    found = BLOCKS[0]["models"]
    for model in found:
        for target in model["targets"]:
            target["price"] = {"input": 0.1, "output": 0.4}
    return found


@pytest.mark.parametrize("plugins", BLOCKS[1:], ids=lambda p: str(p)[:60])
def test_a_recipe_passes_the_check(plugins):
    text = yaml.safe_dump({"models": models(), "plugins": [*plugins, "relay", "litellm"]})
    problems = []
    try:
        Gateway(config.parse(text, environ=KEYS))
    except Exception as error:
        problems = [p for p in getattr(error, "problems", [str(error)]) if "routing" in p]
    assert not problems


def test_the_readmes_settings_pass_the_check():
    block = re.search(r"```yaml\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    plugins = yaml.safe_load(block[1])["plugins"]
    problems = []
    try:
        Gateway(config.parse(yaml.safe_dump({"models": models(), "plugins": plugins}), environ=KEYS))
    except Exception as error:
        problems = [p for p in getattr(error, "problems", [str(error)]) if "routing" in p]
    assert not problems
