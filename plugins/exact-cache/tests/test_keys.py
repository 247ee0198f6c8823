"""Equal requests have one key, whatever is written differently; different ones never, and nobody has another's."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from junctor import Client, Exchange, ProviderKeys, Request, Target
from junctor.wire import OPENAI
from junctor_exact_cache import ExactCacheSettings
from junctor_exact_cache.keys import Keys

_SECRET = "a secret of sixteen"
_KEYS = Keys(ExactCacheSettings(secret=_SECRET))
_BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0.5}
_TARGETS = (Target("fake", "one"), Target("fake", "two"))


def _exchange(body: dict[str, Any] | None = None, **fields: Any) -> Exchange:
    body = dict(_BODY if body is None else body)
    request = Request(OPENAI, fields.pop("operation", "chat"), body, fields.pop("model", "m"), bool(body.get("stream")))
    request.headers = fields.pop("headers", {})
    return Exchange("x", request, targets=fields.pop("targets", _TARGETS), **fields)


def _id(body: dict[str, Any] | None = None, *, keys: Keys = _KEYS, **fields: Any) -> str:
    return keys.of(_exchange(body, **fields)).id


def _keys(**settings: Any) -> Keys:
    return Keys(ExactCacheSettings(secret=_SECRET, **settings))


def test_the_same_secret_gives_the_same_key_in_another_process():
    assert _id() == _id(keys=_keys())
    assert _id() != _id(keys=Keys(ExactCacheSettings(secret="another secret of more")))
    assert _id(keys=Keys(ExactCacheSettings())) != _id(keys=Keys(ExactCacheSettings()))


@pytest.mark.parametrize(
    "left_out",
    [
        {"stream": True},
        {"stream_options": {"include_usage": True}},
        {"user": "u"},
        {"metadata": {"a": "b"}},
        {"safety_identifier": "s"},
        {"temperature": 0.50},
    ],
)
def test_what_does_not_change_the_answer_is_left_out(left_out):
    assert _id({**_BODY, **left_out}) == _id()


@pytest.mark.parametrize(
    "change",
    [
        {"messages": [{"role": "user", "content": "hi "}]},
        {"messages": [{"role": "system", "content": "s"}, *_BODY["messages"]]},
        {"temperature": 0.6},
        {"top_p": 0.5},
        {"seed": 1},
        {"n": 2},
        {"max_tokens": 5},
        {"response_format": {"type": "json_object"}},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"something_new": 1},
    ],
)
def test_what_may_change_the_answer_is_in_the_key(change):
    assert _id({**_BODY, **change}) != _id()


@pytest.mark.parametrize(
    "fields",
    [
        {"operation": "completions"},
        {"model": "other"},
        {"targets": _TARGETS[:1]},
        {"targets": (Target("fake", "one"), Target("fake", "two", params={"seed": 1}))},
        {"targets": (Target("fake", "one"), Target("fake", "two", base_url="http://elsewhere/v1"))},
        {"headers": {"x-junctor-template-version": "2"}},
        {"headers": {"x-prompt-version": "2"}},
        {"headers": {"openai-beta": "x"}},
        {"facts": {"sensitivity": "secret"}},
        {"facts": {"require_tags": ["eu"]}},
        {"facts": {"byok": True}},
        {"client": Client(team="search")},
    ],
)
def test_what_surrounds_the_request_is_in_the_key(fields):
    assert _id(**fields) != _id()


def test_order_weight_and_keys_of_targets_are_not_in_the_key():
    turned = tuple(replace(target, weight=5.0, key_id="k", api_key="secret") for target in reversed(_TARGETS))
    assert _id(targets=turned) == _id()
    first = _keys(targets="first")
    assert _id(targets=turned, keys=first) != _id(keys=first)


def test_one_is_one_however_it_is_written():
    assert _id({**_BODY, "temperature": 1}) == _id({**_BODY, "temperature": 1.0})
    assert _id({**_BODY, "seed": 2**80}) != _id({**_BODY, "seed": 2**80 + 1})


def test_a_lone_surrogate_has_a_key_too():
    cut = {**_BODY, "messages": [{"role": "user", "content": "\ud83d"}]}
    assert _id(cut) == _id(cut) != _id()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
_FIELDS = st.dictionaries(st.text(min_size=1, max_size=6), _JSON, max_size=5)


def _shuffled(value: Any, random: Any) -> Any:
    if isinstance(value, dict):
        names = list(value)
        random.shuffle(names)
        return {name: _shuffled(value[name], random) for name in names}
    return [_shuffled(child, random) for child in value] if isinstance(value, list) else value


@given(_FIELDS, st.randoms(use_true_random=False), st.sampled_from([None, 1, 4]))
def test_neither_the_order_of_keys_nor_whitespace_counts(fields, random, indent):
    body = {**_BODY, **fields}
    written = json.dumps(_shuffled(body, random), indent=indent)
    assert _id(json.loads(written)) == _id(body)


@given(_FIELDS, _FIELDS)
def test_two_bodies_have_one_key_only_if_they_are_the_same_json(one, other):
    left_out = {"model", "stream", "stream_options", "user", "metadata", "prompt_cache_key", "safety_identifier"}
    bodies = [{name: value for name, value in body.items() if name not in left_out} for body in (one, other)]
    # 1 == 1.0 == True in Python, but not in JSON.
    same = json.dumps(bodies[0], sort_keys=True) == json.dumps(bodies[1], sort_keys=True)
    if same:
        assert _id(one) == _id(other)
    elif bodies[0] != bodies[1]:
        assert _id(one) != _id(other)


_NAME = st.sampled_from(["", "a", "b", "a,b", '"a"', "team", '["a"]', "a\x1fb", "global"])
_CLIENT = st.builds(Client, key_id=_NAME, name=_NAME, team=_NAME, project=_NAME)
_HEADERS = st.fixed_dictionaries({}, optional={"x-tenant-id": _NAME, "x-prompt-version": _NAME, "authorization": _NAME})
_SCOPE = st.sampled_from(["key", "team", "project"])


@given(_CLIENT, _CLIENT, _HEADERS, _HEADERS, _SCOPE, st.booleans())
def test_no_combination_reaches_another_teams_entry(one, other, headers, others, scope, divided):
    keys = _keys(scope=scope, scope_header="x-tenant-id" if divided else None)
    if one.team != other.team:
        mine, theirs = (keys.of(_exchange(client=c, headers=h)) for c, h in ((one, headers), (other, others)))
        assert mine.id != theirs.id
        assert mine.scope != theirs.scope
        assert mine.id.split(".")[0] != theirs.id.split(".")[0]


@given(_CLIENT, _CLIENT)
def test_the_key_scope_divides_keys_and_the_project_scope_projects(one, other):
    by_key, by_project = _keys(scope="key"), _keys(scope="project")
    if one.key_id != other.key_id:
        assert _id(client=one, keys=by_key) != _id(client=other, keys=by_key)
    if (one.team, one.project) != (other.team, other.project):
        assert _id(client=one, keys=by_project) != _id(client=other, keys=by_project)


def test_members_of_a_team_share_and_a_client_without_a_team_shares_with_nobody():
    assert _id(client=Client("k1", "a", team="t")) == _id(client=Client("k2", "b", team="t"))
    assert _id(client=Client("k1", "a")) != _id(client=Client("k2", "b"))
    assert _id(client=Client()) == _id()


def test_everybody_shares_in_the_global_scope_unless_a_header_divides_it():
    keys = _keys(scope="global", scope_header="x-tenant-id")
    assert _id(client=Client("k1", team="a"), keys=keys) == _id(client=Client("k2", team="b"), keys=keys)
    assert _id(headers={"x-tenant-id": "1"}, keys=keys) != _id(headers={"x-tenant-id": "2"}, keys=keys)


def test_a_scope_header_that_is_not_configured_changes_nothing():
    assert _id(headers={"x-tenant-id": "1"}) == _id(headers={"x-tenant-id": "2"}) == _id()


@pytest.mark.parametrize("scope", ["key", "team", "global"])
def test_a_client_with_its_own_provider_key_shares_only_with_that_key(scope):
    keys, client = _keys(scope=scope), Client("k", team="t")

    def own(key: str) -> str:
        brought = ProviderKeys({"fake": key})
        return _id(client=client, facts={"byok": True}, provider_keys=brought, keys=keys)

    assert own("one") == own("one")
    assert len({own("one"), own("two"), _id(client=client, keys=keys)}) == 3


def test_keys_brought_in_an_unknown_way_divide_by_every_credential():
    ids = {_id(facts={"byok": True}, headers={"x-some-api-key": key}) for key in ("one", "two")}
    assert len(ids) == 2


def test_nothing_of_the_request_can_be_read_from_the_key():
    key = _KEYS.of(_exchange(client=Client("k", "n", "team")))
    assert len(key.id) == 49
    assert set(key.id) <= set("0123456789abcdef.")
