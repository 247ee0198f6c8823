"""What `junctor check` says of limits, and what the settings refuse."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from junctor import ConfigError, Gateway
from junctor import config as configuration
from junctor.plugins import STAGES
from junctor.testing import FakeProvider, _section
from junctor_quotas import Quotas

HERE = Path(__file__).parents[1]
MODELS = [{"name": "fast", "targets": [{"target": "openai/mini", "tags": ["premium"]}, {"target": "openai/big"}]}]
EXAMPLES = [
    (file.name, block)
    for file in (HERE / "README.md", HERE.parents[1] / "docs" / "quotas.md")
    for block in re.findall(r"```yaml\n(.*?)```", file.read_text(), re.DOTALL)
]


def _problems(**settings):
    tree = json.dumps({"models": MODELS, "plugins": [{"quotas": settings}]})
    try:
        Gateway(configuration.parse(tree), extra=[_section(FakeProvider())])
    except ConfigError as error:
        return "\n".join(error.problems)
    return ""


@pytest.mark.parametrize(
    ("match", "problem"),
    [
        ({"model": ["fast", "fats"]}, "limits[0].match.model: no model is named 'fats'; did you mean 'fast'?"),
        ({"target": "openai/bog"}, "limits[0].match.target: no target is named 'openai/bog'; did you mean 'openai/big"),
        ({"tag": "premum"}, "limits[0].match.tag: no target has the tag 'premum'; did you mean 'premium'?"),
    ],
)
def test_a_match_that_nothing_has_is_told_with_its_place(match, problem):
    assert problem in _problems(limits=[{"requests": 5, "window": "day", "match": match}])


def test_a_match_that_is_there_is_no_problem():
    match = {"model": "fast", "target": ["openai/mini", "openai/big"], "team": "whoever"}
    limits = [{"name": "a", "requests": 5, "window": "day", "match": match}]
    assert not _problems(limits=[*limits, {"name": "b", "concurrency": 2, "match": {"tag": "premium"}}])


@pytest.mark.parametrize(
    ("limit", "problem"),
    [
        ({"window": "day"}, "says no amount"),
        ({"requests": 5}, "says no window"),
        ({"requests": 5, "window": "day", "per": "colour"}, "'colour' is not an attribute"),
        ({"requests": 5, "window": "day", "at": {"80": "warn"}}, "is not a share"),
        ({"requests": 5, "window": "day", "at": {"80%": "shout"}}, "is no action"),
        ({"concurrency": 5, "exactness": "leased"}, "concurrency is always exact"),
        ({"requests": 5, "window": "day", "timezone": "Mars/Base"}, "is not a time zone"),
        ({"requests": 5, "window": "day", "per": ["tag", "target"]}, "use target or tag, not both"),
        ({"requests": 5, "tokens": 5, "window": "day", "soft": 3}, "needs a limit of its own"),
    ],
)
def test_a_limit_that_makes_no_sense_is_told_with_the_remedy(limit, problem):
    assert problem in _problems(limits=[limit])


def test_two_limits_of_one_name_are_told():
    assert "two limits are called 'a'" in _problems(limits=[{"name": "a", "requests": 5, "window": "day"}] * 2)


@pytest.mark.parametrize(("name", "example"), EXAMPLES)
def test_an_example_is_a_configuration_without_a_mistake(name, example):
    tree = example if "plugins:" in example else "plugins:\n  - quotas:\n" + re.sub("^", " " * 6, example, flags=re.M)
    models = "\nmodels: [{name: a, targets: [{target: openai/m, tags: [premium]}]}]\n"
    Gateway(configuration.parse(tree + models, file=name), extra=[_section(FakeProvider())])


def test_the_plugin_s_place_is_where_limits_are():
    assert Quotas.stage in STAGES
