"""Relays requests to servers that speak the client's wire: same wire in as out, nothing is rebuilt."""

from __future__ import annotations

from typing import TYPE_CHECKING

from junctor import PluginSettings, hookimpl
from junctor.upstream import OpenAIUpstream

if TYPE_CHECKING:
    from junctor import Exchange, Gateway, Response, Target

__all__ = ["Relay"]

_KNOWN = {"openai": "https://api.openai.com/v1"}


class Relay:
    """Takes `openai/…`, and every target with a `base_url`, when the target's wire is the client's."""

    Settings = PluginSettings
    stage = "call"

    def __init__(self, settings: PluginSettings, gateway: Gateway) -> None:
        self._upstreams = {
            target: OpenAIUpstream(gateway.http, address, api_key=target.api_key, headers=target.headers)
            for model in gateway.models.values()
            for target in model.targets
            if (address := _address(target)) is not None
        }
        self._http = gateway.http

    @hookimpl
    def claims(self, target: Target) -> bool:
        return _address(target) is not None

    @hookimpl
    async def call(self, exchange: Exchange, target: Target) -> Response | None:
        if target.wire != exchange.request.wire.name:
            return None
        upstream = self._upstreams.get(target)
        if upstream is None:
            # A target that a plugin made for this request, such as one with the client's own key.
            address = _address(target)
            if address is None:
                return None
            upstream = OpenAIUpstream(self._http, address, api_key=target.api_key, headers=target.headers)
        return await upstream.call(exchange, target)


def _address(target: Target) -> str | None:
    if target.wire != "openai":
        return None
    return target.base_url or _KNOWN.get(target.provider)
