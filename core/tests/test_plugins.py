"""Finding, checking and ordering plugins; what does not fit the specification is refused at start-up."""

import pytest
from junctor import ConfigError, PluginSettings, Section, hookimpl
from junctor.plugins import Section as SectionOfList
from junctor.plugins import out_of_order
from junctor.testing import FakeProvider
from pydantic import Field


async def refused(gateway, *plugins, config=""):
    with pytest.raises(ConfigError) as caught:
        async with gateway(*plugins, config=config):
            pass
    return "\n".join(caught.value.problems)


async def test_a_sync_hook_is_refused_with_plugin_and_hook(gateway):
    class Sync:
        @hookimpl
        def pre_route(self, exchange):
            return None

    assert "plugin 'sync': hook 'pre_route' must be `async def`" in await refused(gateway, Sync(), FakeProvider())


async def test_an_unknown_hook_is_refused_with_a_suggestion(gateway):
    class Typo:
        @hookimpl
        async def pre_rout(self, exchange):
            return None

    told = await refused(gateway, Typo(), FakeProvider())
    assert "plugin 'typo': there is no hook 'pre_rout'; did you mean 'pre_route'?" in told


async def test_a_misspelt_argument_is_refused(gateway):
    class Typo:
        @hookimpl
        async def pre_route(self, exchnge):
            return None

    assert "exchnge" in await refused(gateway, Typo(), FakeProvider())


@pytest.mark.parametrize(
    ("plugins", "told"),
    [
        ("[exact_cash]", "plugins[0] (exact_cash): plugin 'exact_cash' is not installed; did you mean 'exact_cache'?"),
        ("[relay, relay]", "plugins[1] (relay): is listed twice"),
        ("[{relay: {timeout: soon}}]", "plugins[0] (relay): timeout: 'soon' is not a duration"),
        ("[{relay: {timout: 5}}]", "plugins[0] (relay): timout: unknown key; did you mean 'timeout'?"),
        ("[{relay: {}, local: {}}]", "plugins[0]: write a name, or one name with its settings"),
    ],
)
async def test_a_wrong_entry_of_the_list_is_told_with_its_place(gateway, plugins, told):
    config = f"{{models: [{{name: test, targets: [{{target: openai/m}}]}}], plugins: {plugins}}}"
    assert told in await refused(gateway, config=config)


async def test_all_mistakes_are_told_at_once(gateway):
    config = "{server: {prt: 1}, models: [{name: a, targets: []}], plugins: [nope]}"
    told = await refused(gateway, config=config)
    assert "server.prt: unknown key; did you mean 'port'?" in told
    assert "models[0].targets" in told
    assert "plugins[0] (nope)" in told


async def test_a_target_that_no_plugin_takes_is_told_with_the_remedy(gateway):
    config = "{models: [{name: a, targets: [{target: closedai/gpt}]}], plugins: [relay]}"
    told = await refused(gateway, config=config)
    assert "models[0].targets[0]: no enabled plugin takes target 'closedai/gpt'; enable one" in told


async def test_a_plugins_own_check_is_told_with_its_place(gateway):
    class Picky:
        @hookimpl
        def check(self):
            return ["limits[0].model: no model is named 'x'"]

    assert "picky: limits[0].model: no model is named 'x'" in await refused(gateway, Picky(), FakeProvider())


async def test_other_addresses_than_loopback_need_clients(gateway):
    config = "{server: {host: 0.0.0.0}, models: [{name: test, targets: [{target: fake/m}]}]}"
    assert "enable the plugin `auth`" in await refused(gateway, FakeProvider(), config=config)


async def test_several_workers_need_a_shared_store(gateway):
    config = "{server: {workers: 2}, models: [{name: test, targets: [{target: fake/m}]}]}"
    assert "set `state.url: redis://" in await refused(gateway, FakeProvider(), config=config)


async def test_nested_settings_tell_the_path_and_the_near_key(gateway):
    class Limit(Section):
        tokens: int = Field(gt=0)

    class Settings(PluginSettings):
        limits: list[Limit] = []

    from junctor.problems import problems_of

    with pytest.raises(ValueError) as caught:
        Settings.model_validate({"limits": [{"tokns": 5}, {"tokens": "many"}]})
    told = problems_of(caught.value, Settings)
    assert "limits[0].tokns: unknown key; did you mean 'tokens'?" in told
    assert any(line.startswith("limits[1].tokens: Input should be a valid integer") for line in told)


async def test_a_plugin_is_entered_and_left_with_the_gateway(gateway):
    class Opened:
        open = False

        async def __aenter__(self):
            self.open = True

        async def __aexit__(self, *exc):
            self.open = False

    plugin = Opened()
    async with gateway(plugin, FakeProvider()):
        assert plugin.open
    assert not plugin.open


async def test_a_plugin_that_cannot_be_opened_is_named(gateway):
    class Closed:
        async def __aenter__(self):
            raise OSError("connection refused")

        async def __aexit__(self, *exc):
            return None

    assert "plugin 'closed' cannot be opened: OSError: connection refused" in await refused(
        gateway, Closed(), FakeProvider()
    )


async def test_a_plugin_takes_only_the_arguments_that_it_uses(gateway):
    seen = []

    class Few:
        @hookimpl
        async def post_call(self, response, error):
            seen.append((response.status, error))

    async with gateway(Few(), FakeProvider()) as g:
        await g.chat()
    assert seen == [(200, None)]


class Outer(FakeProvider):
    stage = "observe"


class Inner(FakeProvider):
    stage = "call"


@pytest.mark.parametrize(("order", "warned"), [((Outer, Inner), False), ((Inner, Outer), True)])
def test_warns_of_an_order_that_is_seldom_meant(order, warned):
    sections = [SectionOfList(place, each.__name__.lower(), each, PluginSettings()) for place, each in enumerate(order)]
    warnings = out_of_order(sections)
    assert bool(warnings) is warned
    if warned:
        assert "plugins[1] (outer): stands after 'inner', but 'outer' sees every request" in warnings[0]
