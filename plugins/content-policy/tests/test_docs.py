"""The recipes of the documentation are configurations that pass `junctor check`."""

import re
from pathlib import Path

import pytest
import yaml
from junctor import ConfigError, Gateway, config

HERE = Path(__file__)
PAGES = (HERE.parents[3] / "docs" / "content-policy.md", HERE.parents[1] / "README.md")
TEXTS = [block for page in PAGES for block in re.findall(r"```yaml\n(.*?)```", page.read_text("utf-8"), re.DOTALL)]
MODELS = [
    {"name": "test", "targets": [{"target": "fake/one", "tags": ["inhouse", "zdr"]}]},
    {"name": "guard", "targets": [{"target": "fake/guard"}]},
]


@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text[:60])
def test_a_recipe_passes_the_check(text):
    plugins = yaml.safe_load(text)
    plugins = plugins["plugins"] if isinstance(plugins, dict) else plugins
    try:
        Gateway(config.parse(yaml.safe_dump({"models": MODELS, "plugins": plugins})))
    except ConfigError as error:
        problems = [p for p in error.problems if "content_policy" in p and "is not installed" not in p]
        assert not problems


def test_the_page_has_its_recipes():
    assert len(TEXTS) == 5
