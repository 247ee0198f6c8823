"""No combination of headers, scope, parameters or turns reaches another's entry."""

import copy
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from junctor import Client, Exchange, Model, ProviderKeys, Request, Target
from junctor.wire import OPENAI
from junctor_semantic_cache.partition import Unfit, namespace_of, read_question
from junctor_semantic_cache.settings import SemanticCacheSettings
from junctor_semantic_cache.store import entry_id

BODY = {
    "model": "test",
    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why rain?"}],
}
HEADERS = {"tenant_header": "x-tenant", "template_header": "x-template", "namespace_header": "x-space"}
MODEL = Model("test", (Target("fake", "one"),))


def read(
    body,
    *,
    headers=None,
    client=None,
    model=MODEL,
    embedder="words",
    window=None,
    facts=None,
    exchange=None,
    **settings,
):
    request = Request(OPENAI, "chat", body, body["model"], headers=headers or {})
    client = client or Client(key_id="k", name="n", team="t", project="p")
    exchange = Exchange("id", request, model, client, facts=facts or {}, **exchange or {})
    chosen = SemanticCacheSettings(**HEADERS, **settings)
    return read_question(exchange, chosen, embedder=embedder, window=window or len)


def place(question):
    """Where the entry is found: equal places share answers."""
    return entry_id(question.scope, question.tenant, question.partition, question.text)


def changed(path, value):
    body = copy.deepcopy(BODY)
    node = body
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return body


PICTURE = [{"type": "text", "text": "Why rain?"}, {"type": "image_url", "image_url": {"url": "http://x/a.png"}}]
MATTERS = [
    (["model"], "other"),
    (["messages", 0, "content"], "Be long."),
    (["messages", 0, "role"], "developer"),
    (["messages", 1, "content"], PICTURE),
    (["messages", 1, "name"], "ann"),
    (["tools"], [{"type": "function", "function": {"name": "f"}}]),
    (["tool_choice"], "none"),
    (["response_format"], {"type": "json_object"}),
    (["max_tokens"], 10),
    (["temperature"], 0.0),
    (["top_p"], 0.1),
    (["seed"], 7),
    (["stop"], ["."]),
    (["logit_bias"], {"5": 1}),
    (["reasoning_effort"], "high"),
    (["something_new"], True),
]


@pytest.mark.parametrize(("path", "value"), MATTERS, ids=[str(path[-1]) for path, _ in MATTERS])
def test_what_can_change_the_answer_is_another_partition(path, value):
    assert read(changed(path, value)).partition != read(BODY).partition


@pytest.mark.parametrize("field", ["stream", "stream_options", "user", "metadata", "store", "service_tier"])
def test_what_cannot_is_the_same_partition(field):
    assert place(read(changed([field], {"a": "b"}))) == place(read(BODY))


def test_earlier_turns_belong_to_the_partition():
    more = {"role": "assistant", "content": "Clouds."}
    body = {**BODY, "messages": [*BODY["messages"], more, {"role": "user", "content": "Why rain?"}]}
    assert read(body).text == "Why rain?"
    assert read(body).partition != read(BODY).partition


def test_another_target_of_the_alias_stops_matching():
    moved = Model("test", (Target("fake", "two"),))
    assert read(BODY, model=moved).partition != read(BODY).partition


def test_another_route_is_another_partition_whatever_its_order():
    both = (Target("fake", "one"), Target("fake", "two"))
    whole, turned, part = (read(BODY, exchange={"targets": found}) for found in (both, both[::-1], both[:1]))
    assert whole.partition == turned.partition != part.partition
    warm = (Target("fake", "one", params={"reasoning_effort": "high"}),)
    assert read(BODY, exchange={"targets": warm}).partition != part.partition


@pytest.mark.parametrize("facts", [{"sensitivity": "personal"}, {"require_tags": ["eu"]}])
def test_what_a_policy_marked_is_another_partition(facts):
    assert read(BODY, facts=facts).partition != read(BODY).partition


@pytest.mark.parametrize("scope", ["key", "team", "project", "global"])
def test_a_key_of_the_clients_own_is_another_scope(scope):
    def with_key(key):
        own = {"provider_keys": ProviderKeys({"fake": key})}
        return read(BODY, scope=scope, facts={"byok": True}, exchange=own).scope

    assert len({with_key("sk-one"), with_key("sk-two"), read(BODY, scope=scope).scope}) == 3
    assert with_key("sk-one") == with_key("sk-one")


def test_a_key_that_came_another_way_passes_by():
    with pytest.raises(Unfit):
        read(BODY, facts={"byok": True})


def test_the_order_of_keys_does_not_matter():
    turned = json.loads(json.dumps(changed(["logit_bias"], {"1": 2, "3": 4})))
    turned = dict(reversed(turned.items()))
    turned["logit_bias"] = {"3": 4, "1": 2}
    assert read(turned).partition == read(changed(["logit_bias"], {"1": 2, "3": 4})).partition


def test_embedders_do_not_share():
    assert read(BODY, embedder="other").partition != read(BODY).partition


def test_beyond_the_window_the_rest_must_be_equal():
    long, other = (
        changed(["messages", 1, "content"], "head " + "a" * 50),
        changed(["messages", 1, "content"], "head " + "b" * 50),
    )
    assert read(long, window=lambda text: 5).text == read(other, window=lambda text: 5).text
    assert read(long, window=lambda text: 5).partition != read(other, window=lambda text: 5).partition


names = st.text(alphabet="abc/:|\x00", max_size=4)
clients = st.builds(Client, key_id=names, name=names, team=names, project=names)


@given(clients, clients, st.sampled_from(["key", "team", "project"]), names, names, names, names)
def test_only_the_same_scope_tenant_and_template_share(one, other, scope, tenant, tenant2, template, template2):
    first = read(BODY, client=one, scope=scope, headers={"x-tenant": tenant, "x-template": template})
    second = read(BODY, client=other, scope=scope, headers={"x-tenant": tenant2, "x-template": template2})
    owner = {
        "key": lambda c: (c.team, c.project, c.key_id, c.name),
        "team": lambda c: c.team or (c.project, c.key_id, c.name),
        "project": lambda c: (c.team, c.project) if c.project else (c.team, c.key_id, c.name),
    }[scope]
    alike = owner(one) == owner(other) and tenant == tenant2 and template == template2
    assert (place(first) == place(second)) == alike


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(json_values, json_values)
def test_any_parameter_with_another_value_is_another_partition(one, other):
    first, second = read(changed(["unknown"], one)), read(changed(["unknown"], other))
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    assert (first.partition == second.partition) == same


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["messages", 1, "role"], "tool"),
        (["messages", 1, "content"], "  "),
        (["messages", 1, "content"], None),
        (["temperature"], 1.7),
        (["temperature"], "hot"),
        (["n"], 3),
    ],
)
def test_what_cannot_be_compared_passes_by(path, value):
    with pytest.raises(Unfit):
        read(changed(path, value))


@pytest.mark.parametrize(
    ("text", "volatile"),
    [
        ("What is the weather in Rome?", True),
        ("Who is the current champion?", True),
        ("How do I open a current account?", False),
        ("Why is the sky blue?", False),
    ],
)
def test_a_prompt_about_what_changes_is_volatile(text, volatile):
    assert read(changed(["messages", 1, "content"], text)).volatile is volatile


def test_the_namespace_is_the_model_the_clients_or_a_header():
    request = Request(OPENAI, "chat", BODY, "test", headers={"x-space": "faq"})
    exchange = Exchange("id", request, MODEL, Client(feature="search"))
    assert namespace_of(exchange, SemanticCacheSettings(**HEADERS)) == "faq"
    assert namespace_of(exchange, SemanticCacheSettings()) == "test"
    assert namespace_of(exchange, SemanticCacheSettings(namespace="feature")) == "search"
    assert namespace_of(exchange, SemanticCacheSettings(namespace="team")) == "none"
