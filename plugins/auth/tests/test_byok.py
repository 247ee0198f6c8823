"""Provider keys that clients bring: where they go, where they do not, and who may."""

import pytest
from junctor import ErrorKind, ProviderError, hookimpl
from junctor.testing import FakeProvider, Recorder
from junctor_auth import Auth
from junctor_auth.settings import Rights

KEY = "search-key-0123456789"
OWN = "sk-own-canary-0123456789"
HEADER = "x-junctor-provider-key"
MODELS = [
    {"name": "test", "targets": [{"target": "openai/m", "api_key": "central-openai"}]},
    {
        "name": "two",
        "targets": [
            {"target": "openai/m", "api_key": "central-openai"},
            {"target": "vertex_ai/m", "api_key": "central-vertex"},
        ],
    },
]


class Keys(FakeProvider):
    """Notes whose key each call used."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.seen = []

    @hookimpl
    async def call(self, exchange, target):
        self.seen.append((target.provider, target.api_key))
        return await super().call(exchange, target)


class FallBack:
    """Tries the targets one after the other."""

    @hookimpl
    async def on_error(self, exchange, target, error):
        place = exchange.targets.index(target) + 1
        return exchange.targets[place] if place < len(exchange.targets) else None


def auth(byok="allowed", **more):
    client = {"name": "search", "key": KEY, "team": "web", **({"byok": byok} if byok else {})}
    return (Auth, {"clients": [client], **more})


async def _call(gateway, plugin, *others, provider=None, model="test", **headers):
    provider, recorder = provider or Keys(), Recorder()
    async with gateway(plugin, *others, provider, recorder, models=MODELS) as g:
        given = {"authorization": f"Bearer {KEY}", **{name.replace("_", "-"): v for name, v in headers.items()}}
        answer = await g.chat(model=model, headers=given)
    return answer, provider.seen, recorder.last


async def test_a_clients_own_key_takes_the_place_of_the_gateways(gateway):
    answer, seen, exchange = await _call(gateway, auth(), x_junctor_provider_key=OWN)
    assert answer.status == 200
    assert seen == [("openai", OWN)]
    assert exchange.facts["byok"] is True
    assert exchange.attempts[0].target.key_id == "byok-search"


async def test_without_one_the_gateways_key_is_used(gateway):
    _, seen, exchange = await _call(gateway, auth())
    assert seen == [("openai", "central-openai")]
    assert not exchange.facts.get("byok")


@pytest.mark.parametrize("plugin", [auth("off"), auth(None), auth(None, teams={"other": {"byok": "allowed"}})])
async def test_one_who_may_not_is_refused_and_not_served_with_the_gateways_key(gateway, plugin):
    answer, seen, _ = await _call(gateway, plugin, x_junctor_provider_key=OWN)
    assert (answer.status, answer.json()["error"]["code"]) == (403, "byok_not_allowed")
    assert seen == []
    assert OWN not in answer.body.decode()


async def test_without_any_client_configured_nobody_may(gateway):
    answer, seen, _ = await _call(gateway, (Auth, {}), x_junctor_provider_key=OWN)
    assert (answer.status, seen) == (403, [])


async def test_a_team_may_be_allowed_as_a_whole(gateway):
    _, seen, _ = await _call(gateway, auth(None, teams={"web": {"byok": "allowed"}}), x_junctor_provider_key=OWN)
    assert seen == [("openai", OWN)]


async def test_a_key_goes_to_the_provider_it_names_only(gateway):
    provider = Keys(script=[ProviderError("down", kind=ErrorKind.OVERLOADED), None])
    answer, seen, exchange = await _call(
        gateway, auth(), FallBack(), provider=provider, model="two", x_junctor_provider_key_openai=OWN
    )
    assert answer.status == 200
    assert seen == [("openai", OWN), ("vertex_ai", "central-vertex")]
    assert exchange.facts["byok"] is False


async def test_a_providers_name_is_found_in_a_header_with_hyphens(gateway):
    keys = {"x_junctor_provider_key_openai": OWN, "x_junctor_provider_key_vertex_ai": OWN + "v"}
    provider = Keys(script=[ProviderError("down", kind=ErrorKind.OVERLOADED), None])
    _, seen, exchange = await _call(gateway, auth(), FallBack(), provider=provider, model="two", **keys)
    assert seen == [("openai", OWN), ("vertex_ai", OWN + "v")]
    assert exchange.facts["byok"] is True


async def test_a_key_without_a_name_is_refused_where_several_providers_may_answer(gateway):
    answer, seen, _ = await _call(gateway, auth(), model="two", x_junctor_provider_key=OWN)
    assert (answer.status, answer.json()["error"]["code"]) == (400, "ambiguous_provider_key")
    assert seen == []


@pytest.mark.parametrize("name", ["anthropic", "evil.example", "", "openai/../x"])
async def test_a_provider_that_nobody_configured_is_refused(gateway, name):
    answer, seen, _ = await _call(gateway, auth(), **{f"{HEADER}-{name}": OWN})
    assert (answer.status, answer.json()["error"]["code"]) == (400, "unknown_provider")
    assert seen == []


@pytest.mark.parametrize("value", [OWN + "\r\nhost: evil", OWN + " x", "", "short", "é" * 20, "a" * 5000, [OWN, OWN]])
async def test_what_is_no_key_is_refused_and_not_repeated(gateway, value):
    answer, seen, _ = await _call(gateway, auth(), x_junctor_provider_key=value)
    assert (answer.status, answer.json()["error"]["code"]) == (400, "invalid_provider_key")
    assert seen == []
    assert "canary" not in answer.body.decode()


async def test_a_client_that_must_bring_its_key_never_spends_the_gateways(gateway):
    answer, seen, _ = await _call(gateway, auth("required"))
    assert (answer.status, answer.json()["error"]["code"], seen) == (403, "provider_key_missing", [])
    provider = Keys(script=[ProviderError("down", kind=ErrorKind.OVERLOADED)])
    answer, seen, _ = await _call(
        gateway, auth("required"), FallBack(), provider=provider, model="two", x_junctor_provider_key_openai=OWN
    )
    assert (answer.status, seen) == (503, [("openai", OWN)])


async def test_a_teams_key_of_the_file_is_used_and_a_header_beats_it(gateway):
    plugin = auth(teams={"web": {"provider_keys": {"openai": "sk-of-the-team"}}})
    _, seen, exchange = await _call(gateway, plugin)
    assert seen == [("openai", "sk-of-the-team")]
    assert exchange.facts["byok"] is True
    _, seen, _ = await _call(gateway, plugin, x_junctor_provider_key=OWN)
    assert seen == [("openai", OWN)]


async def test_another_team_does_not_use_a_teams_key(gateway):
    _, seen, _ = await _call(gateway, auth(teams={"ops": {"provider_keys": {"openai": "sk-of-the-team"}}}))
    assert seen == [("openai", "central-openai")]


async def test_a_teams_key_of_the_store_is_used_as_soon_as_it_is_there(gateway, opened, store_settings):
    store, provider = opened(store_settings), Keys()
    key, _ = store.create("a", Rights(team="ops"))
    store.set_provider_key("ops", "openai", OWN)
    async with gateway((Auth, {"store": store_settings}), provider, models=MODELS) as g:
        admin = g.gateway.plugins.by_name["auth"]._mirror
        for change in (
            lambda s: s.set_provider_key("ops", "openai", OWN + "2"),
            lambda s: s.remove_provider_key("ops", "openai"),
        ):
            await g.chat(headers={"authorization": f"Bearer {key}"})
            await admin.run(change)
        await g.chat(headers={"authorization": f"Bearer {key}"})
    assert [used for _, used in provider.seen] == [OWN, OWN + "2", "central-openai"]


def test_a_stored_provider_key_is_encrypted_and_bound_to_its_team(opened, sqlite_store, tmp_path):
    store = opened(sqlite_store)
    store.set_provider_key("ops", "openai", OWN)
    assert OWN.encode() not in b"".join(file.read_bytes() for file in tmp_path.iterdir())
    with store._write() as connection:  # somebody with access to the database gives another team's key to his own
        connection.exec_driver_sql("update junctor_auth_provider_keys set team = 'evil'")
    assert [(row.team, row.key) for row in store.provider_keys()] == [("evil", None)]


def test_a_stored_provider_key_does_not_open_with_another_secret(opened, sqlite_store):
    opened(sqlite_store).set_provider_key("ops", "openai", OWN)
    other = opened({**sqlite_store, "encryption_key": "another-encryption-key-0123456789ab"})
    assert other.provider_keys()[0].key is None
    assert OWN not in repr(opened(sqlite_store).provider_keys())
