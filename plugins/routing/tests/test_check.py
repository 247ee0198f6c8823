"""What `junctor check` says of rules, and what the settings refuse."""

import json
from datetime import UTC, datetime

import pytest
from junctor import ConfigError, Gateway, config
from junctor_routing.conditions import covers
from junctor_routing.settings import RoutingSettings, WhenSettings

MODELS = [
    {"name": "fast", "targets": [{"target": "openai/mini", "tags": ["eu"]}]},
    {"name": "smart", "targets": [{"target": "openai/big", "tags": ["us", "premium"]}]},
]


def problems_of(settings):
    try:
        Gateway(config.parse(json.dumps({"models": MODELS, "plugins": [{"routing": settings}]})))
    except ConfigError as error:
        return [p for p in error.problems if "routing" in p]
    return []


def rules(*pairs):
    found = [{"name": f"r{n}", "when": when, "use": use} for n, (when, use) in enumerate(pairs)]
    return {"rules": found}


CASES = [
    (rules(({}, {"model": "fsat"})), "rules[0].use.model: no model is named 'fsat'; did you mean 'fast'?"),
    (rules(({}, {"tags": ["premum"]})), "rules[0].use.tags: no target has 'premum'; did you mean 'premium'?"),
    (rules(({"model": "fast"}, {"tags": ["us"]})), "rules[0].use.tags: no target has 'us'"),
    (rules(({}, {"model": "fast", "tags": ["eu", "premium"]})), "no target has 'eu' and 'premium'"),
    (rules(({"model": "smrt"}, {"model": "fast"})), "rules[0].when.model: no model is named 'smrt'"),
    (rules(({"model": "x*"}, {"model": "fast"})), "rules[0].when.model: no model is like 'x*'"),
    (
        rules(({"task": "codde"}, {"model": "fast"})),
        "rules[0].when.task: no task is named 'codde'; did you mean 'code'?",
    ),
    (rules(({"topic": "refunds"}, {"model": "fast"})), "rules[0].when.topic: no topic is named 'refunds'"),
    (rules(({"any": [{"task": "x"}]}, {"model": "fast"})), "rules[0].when.any[0].task: no task is named 'x'"),
    (rules(({"not": {"model": "x"}}, {"model": "fast"})), "rules[0].when.not.model: no model is named 'x'"),
    (
        rules(({}, {"model": "fast"}), ({"team": "a"}, {"model": "smart"})),
        "rules[1]: rule 'r1' is never reached: rule 'r0'",
    ),
    (
        rules(({}, {"strategy": {"ordered": {"tiers": [["openai/nimi"]]}}})),
        "tiers[0]: no target or tag is named 'openai/nimi'",
    ),
    (rules(({}, {"model": "fast", "strategy": {"quality": {"tier": "premium"}}})), "no target has the tag 'premium'"),
    ({"strategies": {"default": "cheapest"}}, "strategies.default: cheapest needs prices, and no target has one"),
    ({"strategies": {"models": {"fats": "ordered"}}}, "strategies.models.fats: no model is named 'fats'; did you mean"),
    ({"constraints": {"require": [{"tags": ["moon"]}]}}, "constraints.require[0].tags: no target has 'moon'"),
]


@pytest.mark.parametrize(("settings", "text"), CASES, ids=[text[:60] for _, text in CASES])
def test_a_mistake_is_told_with_its_place(settings, text):
    assert any(text in problem for problem in problems_of(settings)), problems_of(settings)


def test_a_sound_configuration_has_no_problems():
    settings = rules(({"task": "code", "model": "fast"}, {"model": "smart"}), ({"team": "a"}, {"tags": ["eu"]}))
    assert not problems_of(settings)


REFUSED = [
    (rules(({}, {})), "name a model, tags or a strategy"),
    (rules(({"input_tokens": "many"}, {"model": "fast"})), "is not a range"),
    (rules(({"input_tokens": "9k..8k"}, {"model": "fast"})), "is empty"),
    (rules(({"time": "25:00-26:00"}, {"model": "fast"})), "hours go from"),
    (rules(({"time": "10:00-11:00 Mars/Base"}, {"model": "fast"})), "is not a time zone"),
    (rules(({"time": "Foo 10:00-11:00"}, {"model": "fast"})), "is not a day"),
    (rules(({"sticky_by": "key"}, {"model": "fast"})), "sticky_by goes with percent"),
    (rules(({"percent": 5, "sticky_by": "kee"}, {"model": "fast"})), "'kee' is not known"),
    (rules(({"not": {"topic": "a"}}, {"model": "fast"})), "topic cannot stand within"),
    (rules(({"team": True}, {"model": "fast"})), "write a word or a list of words"),
    (rules(({"taem": "a"}, {"model": "fast"})), "unknown key; did you mean 'team'?"),
    (rules(({}, {"strategy": {"quality": {"tier": "gold"}}})), "tier must be one of standard, premium"),
    (rules(({}, {"strategy": {"slo": {}}})), "name an objective"),
    (rules(({}, {"strategy": "fastest"})), "Input should be"),
    ({"rules": [*rules(({}, {"model": "fast"}))["rules"] * 2]}, "is given twice"),
]


@pytest.mark.parametrize(("settings", "text"), REFUSED, ids=[text[:60] for _, text in REFUSED])
def test_settings_that_make_no_sense_are_refused(settings, text):
    assert any(text in problem for problem in problems_of(settings)), problems_of(settings)


COVERED = [
    ({}, {"team": "a"}),
    ({"team": ["a", "b"]}, {"team": "a"}),
    ({"team": "a*"}, {"team": ["ab", "ac"], "stream": True}),
    ({"input_tokens": ">1000"}, {"input_tokens": ">=8000"}),
    ({"input_tokens": "1..10"}, {"input_tokens": "2..9"}),
    ({"header": {"x": True}}, {"header": {"x": "1", "y": "2"}}),
    ({"stream": True}, {"stream": True, "tools": False}),
    ({"any": [{"team": "a"}, {"team": "b"}]}, {"team": "b"}),
    ({"team": ["a", "b"]}, {"any": [{"team": "a"}, {"team": "b"}]}),
    ({"time": "Mon-Fri 08:00-18:00"}, {"time": "Tue 09:00-10:00"}),
    ({"time": "22:00-06:00"}, {"time": "23:00-01:00"}),
    ({"not": {"team": "a"}}, {"not": {"team": "a"}, "stream": True}),
]
NOT_COVERED = [
    ({"team": "a"}, {}),
    ({"team": "a"}, {"team": ["a", "b"]}),
    ({"team": "a"}, {"team": "a*"}),
    ({"input_tokens": ">8000"}, {"input_tokens": ">=8000"}),
    ({"percent": 10}, {"team": "a"}),
    ({"percent": 10}, {"percent": 5}),
    ({"stream": True}, {"stream": False}),
    ({"header": {"x": "1"}}, {"header": {"x": True}}),
    ({"header": {"x": False}}, {"header": {"x": "1"}}),
    ({"any": [{"team": "a"}, {"team": "b"}]}, {"team": "c"}),
    ({"time": "08:00-18:00"}, {"time": "08:00-18:00 Europe/Berlin"}),
    ({"not": {"team": "a"}}, {"team": "b"}),
]


@pytest.mark.parametrize(("earlier", "later"), COVERED, ids=str)
def test_an_earlier_condition_takes_all_of_a_later_one(earlier, later):
    assert covers(WhenSettings.model_validate(earlier), WhenSettings.model_validate(later))


@pytest.mark.parametrize(("earlier", "later"), NOT_COVERED, ids=str)
def test_an_earlier_condition_leaves_some_of_a_later_one(earlier, later):
    assert not covers(WhenSettings.model_validate(earlier), WhenSettings.model_validate(later))


@pytest.mark.parametrize(
    ("text", "moment", "inside"),
    [
        ("22:00-06:00 Europe/Berlin", "2026-01-15T21:30", True),  # 22:30 there
        ("22:00-06:00 Europe/Berlin", "2026-07-15T20:30", True),  # summer time
        ("22:00-06:00 Europe/Berlin", "2026-01-15T05:30", False),
        ("Fri 22:00-06:00", "2026-01-17T03:00", True),  # the Saturday after
        ("Sat 22:00-06:00", "2026-01-17T03:00", False),
        ("Mon-Fri 09:00-18:00", "2026-01-17T10:00", False),
        ("09:00-24:00", "2026-01-17T23:59", True),
        ("Sat,Sun 00:00-24:00", "2026-01-17T10:00", True),
    ],
)
def test_hours_of_the_week(text, moment, inside):
    settings = RoutingSettings.model_validate(rules(({"time": text}, {"model": "m"})))
    hours = settings.rules[0].when.time
    assert hours.contains(datetime.fromisoformat(moment).replace(tzinfo=UTC)) is inside
