"""What the documents show is accepted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from junctor_exact_cache import ExactCacheSettings

_PLUGIN = Path(__file__).parents[1]
_PAGES = [_PLUGIN / "README.md", _PLUGIN.parents[1] / "docs" / "exact-cache.md"]


@pytest.mark.parametrize("page", _PAGES, ids=lambda page: page.name)
def test_every_example_is_a_valid_section(page):
    blocks = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    for block in blocks:
        for entry in yaml.safe_load(block)["plugins"]:
            if isinstance(entry, dict):
                ExactCacheSettings.model_validate(entry["exact_cache"])
    assert blocks


def test_the_readme_shows_every_setting_with_its_default():
    block = re.search(r"```yaml\n(.*?)```", _PAGES[0].read_text(), re.DOTALL)
    shown = yaml.safe_load(block[1])["plugins"][0]["exact_cache"]
    own = set(ExactCacheSettings.model_fields) - {"timeout", "on_failure"}
    assert set(shown) == own
    default, example = ExactCacheSettings(), ExactCacheSettings.model_validate(shown)
    assert [name for name in own - {"rules"} if getattr(default, name) != getattr(example, name)] == []
