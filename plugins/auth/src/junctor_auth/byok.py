"""Provider keys that clients bring: in a header, or kept for their team."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from junctor import BadRequest, ProviderKeys, Refused

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from junctor import Exchange, GatewayError, Model

    from junctor_auth.grants import Grant

__all__ = ["HEADER", "PROVIDER_KEY", "Byok", "byok_not_allowed"]

HEADER = "x-junctor-provider-key"
PROVIDER_KEY = re.compile(r"[\x21-\x7e]{8,1024}")


def byok_not_allowed() -> GatewayError:
    """A provider's key was sent by one who may not; to pass it over would spend the gateway's money in its place."""
    return Refused("this key may not bring a provider's key of its own", code="byok_not_allowed")


class Byok:
    """Finds out which keys of the client's own an exchange may use. A key is bound to one provider by its name.

    `team_keys` are those of the file, by team and provider; `stored` gives those of the store, which beat them.
    """

    def __init__(self, models: Mapping[str, Model], team_keys: Mapping[str, Mapping[str, str]]) -> None:
        self._models = {name: frozenset(t.provider for t in model.targets) for name, model in models.items()}
        providers = frozenset[str]().union(*self._models.values())
        # A header's name is in lower case, and proxies drop those with an underscore.
        self._providers = {_in_header(name): name for name in providers}
        self._team_keys = {team: dict(keys) for team, keys in team_keys.items() if keys}

    def apply(
        self, exchange: Exchange, grant: Grant, given: Mapping[str, str], stored: Mapping[str, Mapping[str, str]]
    ) -> None:
        """Put the keys on the exchange. Raises `Refused` or `BadRequest`; neither ever repeats a key."""
        team = grant.client.team
        keys: dict[str, str] = {}
        if team:
            keys.update(self._team_keys.get(team, {}))
            keys.update(stored.get(team, {}))
        if given:
            if grant.byok == "off":
                raise byok_not_allowed()
            keys.update(self._named(given, exchange.request.model))
        only = grant.byok == "required"
        if keys or only:
            exchange.provider_keys = ProviderKeys(keys, f"byok-{grant.client.key_id}", only)
            providers = self._models.get(exchange.request.model, frozenset())
            # What is expected; each call tells what was. The caches part their entries by it before that.
            exchange.facts["byok"] = not providers.isdisjoint(keys)

    def _named(self, given: Mapping[str, str], model: str) -> Iterable[tuple[str, str]]:
        for header, key in given.items():
            if not PROVIDER_KEY.fullmatch(key):
                raise BadRequest(f"the header {HEADER} does not hold a key", code="invalid_provider_key")
            yield self._provider(header, model), key

    def _provider(self, header: str, model: str) -> str:
        if header == HEADER:
            providers = self._models.get(model, frozenset())
            if len(providers) > 1:
                raise BadRequest(
                    f"several providers may answer for '{model}'; say whose key it is: {HEADER}-PROVIDER",
                    code="ambiguous_provider_key",
                )
            # No provider: the model is not known, which the client is told in its turn.
            return next(iter(providers), "")
        provider = self._providers.get(header[len(HEADER) + 1 :])
        if provider is None:
            raise BadRequest(f"the header {HEADER}-… names a provider that is not used here", code="unknown_provider")
        return provider


def _in_header(provider: str) -> str:
    return provider.lower().replace("_", "-")
