from junctor import ErrorKind, ProviderError, ProviderKeys, Target, hookimpl
from junctor.testing import FakeProvider, Recorder

MODELS = [
    {
        "name": "test",
        "targets": [
            {"target": "one/m", "api_keys": {"a": "central-a", "b": "central-b"}, "headers": {"Api-Key": "central"}},
            {"target": "two/m", "api_key": "central-two"},
        ],
    }
]


class Bring:
    """Gives every exchange the same keys."""

    def __init__(self, **keys):
        self.keys = ProviderKeys(keys.pop("keys"), **keys)

    @hookimpl
    async def pre_route(self, exchange):
        exchange.provider_keys = self.keys


class Keys(FakeProvider):
    """Notes the key of every call."""

    @hookimpl
    async def call(self, exchange, target):
        self.seen = [*getattr(self, "seen", []), (target.id, target.api_key)]
        return await super().call(exchange, target)


class FallBack:
    """Tries the targets one after the other."""

    @hookimpl
    async def on_error(self, exchange, target, error):
        place = exchange.targets.index(target) + 1
        return exchange.targets[place] if place < len(exchange.targets) else None


async def test_a_clients_key_goes_to_its_provider_and_takes_the_place_of_all_central_ones(gateway):
    provider, recorder = Keys(), Recorder()
    async with gateway(Bring(keys={"one": "own"}), provider, recorder, models=MODELS) as g:
        await g.chat()
    assert provider.seen == [("one/m#byok", "own")]
    assert [target.id for target in recorder.last.targets] == ["one/m#byok", "two/m"]
    assert recorder.last.facts["byok"] is True


async def test_a_fallback_to_another_provider_uses_the_gateways_key_and_is_not_marked(gateway):
    provider, recorder = Keys(script=[ProviderError("down", kind=ErrorKind.OVERLOADED), None]), Recorder()
    async with gateway(Bring(keys={"one": "own"}), FallBack(), provider, recorder, models=MODELS) as g:
        await g.chat()
    assert provider.seen == [("one/m#byok", "own"), ("two/m", "central-two")]
    assert recorder.last.facts["byok"] is False


async def test_with_own_keys_only_no_other_provider_is_called(gateway):
    provider = Keys(script=[ProviderError("down", kind=ErrorKind.OVERLOADED)])
    async with gateway(Bring(keys={"one": "own"}, only=True), FallBack(), provider, models=MODELS) as g:
        answer = await g.chat()
    assert answer.status == 503
    assert provider.seen == [("one/m#byok", "own")]


async def test_with_own_keys_only_a_model_without_one_is_refused(gateway):
    provider = Keys()
    async with gateway(Bring(keys={"three": "own"}, only=True), provider, models=MODELS) as g:
        answer = await g.chat()
    assert answer.status == 403
    assert answer.json()["error"]["code"] == "provider_key_missing"
    assert provider.calls == []


def test_a_targets_own_credential_headers_do_not_go_with_a_clients_key():
    target = Target("one", "m", "central", headers={"Authorization": "Bearer central", "x-tag": "kept"})
    keyed = ProviderKeys({"one": "own"}, "byok-7").on(target)
    assert keyed.headers == {"x-tag": "kept"}
    assert (keyed.api_key, keyed.key_id) == ("own", "byok-7")


def test_a_key_shows_in_no_representation():
    keys = ProviderKeys({"one": "canary"})
    assert "canary" not in repr(keys)
    assert "canary" not in repr(keys.on(Target("one", "m")))
