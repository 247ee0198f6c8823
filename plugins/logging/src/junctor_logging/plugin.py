"""The plugin: takes every exchange's end, and keeps the rest of the work away from it."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Self

from junctor import ConfigError, hookimpl
from junctor.secrets import Secrets, secrets_in

from junctor_logging.admin import Admin
from junctor_logging.build import Builder
from junctor_logging.capture import Capturer
from junctor_logging.content import Recorder
from junctor_logging.names import Names
from junctor_logging.pump import Pump
from junctor_logging.recent import Recent
from junctor_logging.redact import Redactor
from junctor_logging.settings import LoggingSettings
from junctor_logging.sinks import Context, read_sinks
from junctor_logging.writer import Writer

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Mapping, Sequence

    from junctor import Exchange, Gateway, Response
    from starlette.routing import BaseRoute

__all__ = ["Logging"]

_log = logging.getLogger("junctor.logging")


class Logging:
    """One record for every exchange, to any number of sinks. The request's path only puts it into a queue."""

    Settings = LoggingSettings
    stage = "observe"

    def __init__(self, settings: LoggingSettings, gateway: Gateway) -> None:
        self._settings = settings
        self._gateway = gateway
        self._capturer = Capturer()
        self._recorder = Recorder(settings.content) if settings.content else None
        self._recent = Recent(settings.recent)
        folder = settings.folder
        pumps: list[Pump] = []
        ledger: Any = None
        for section in read_sinks(settings.sinks):
            sink = section.factory(section.settings, Context(folder, section.label))
            ledger = ledger or getattr(sink, "url", None)
            spool = folder / "spool" / section.label
            pumps.append(
                Pump(sink, section.label, spool, spool=settings.spool, batch=settings.batch, memory=settings.queue)
            )
        if len({pump.label for pump in pumps}) < len(pumps):
            raise ConfigError("sinks: two of them have the same name")
        self._pumps = pumps
        self._admin = Admin(self._recent, ledger, lambda: self._closed)
        self._writer = Writer(
            Builder(settings.discounts, _redactor(settings, gateway)),
            pumps,
            limit=settings.queue,
            batch=settings.batch,
            flush=settings.flush,
            seen=self._recent.add,
        )
        self._closed = False
        if self._recorder is not None:
            self.pre_route = _before(self._recorder)

    @hookimpl
    async def post_call(self, exchange: Exchange, response: Response | None, error: BaseException | None) -> None:
        content = None if self._recorder is None else self._recorder.take(exchange, response)
        self._writer.put(self._capturer.take(exchange, response, error, content))

    @hookimpl
    def check(self) -> Iterable[str]:
        """Discounts and content rules that name what is not there."""
        targets = [target for model in self._gateway.models.values() for target in model.targets]
        known = {target.name for target in targets} | {target.provider for target in targets}
        for name in self._settings.discounts:
            if name not in known:
                yield f"discounts.{name}: no target or provider is named '{name}'"
        for index, rule in enumerate(self._settings.content):
            for model in rule.models or ():
                if (problem := self._gateway.unknown_model(model)) is not None:
                    yield f"content[{index}].models: {problem}"

    @hookimpl
    def http_routes(self) -> Sequence[BaseRoute]:
        return self._admin.routes()

    @staticmethod
    @hookimpl
    def cli_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
        from junctor_logging.commands import add

        add(commands)

    def stats(self) -> dict[str, Any]:
        """Figures for metrics: the queue, and each sink's counts (see `Pump`)."""
        return {
            "records": self._writer.records,
            "dropped": self._writer.dropped,
            "waiting": self._writer.waiting,
            "sinks": {pump.label: {**pump.counts, "waiting": pump.waiting} for pump in self._pumps},
        }

    async def costs(self, by: Sequence[str], since: int) -> dict[str, Any]:
        """Sums of the ledger as in `GET /admin/costs`; `since` is milliseconds since the epoch.

        Raises `GatewayError` if there is no ledger, or it cannot be read now.
        """
        from junctor_logging.costs import Question

        return await self._admin.report(Question(by, since))

    async def find(self, limit: int, where: Mapping[str, str]) -> list[dict[str, Any]]:
        """Records without content as in `GET /admin/exchanges`, the newest first; `where` wants equal values."""
        return await self._admin.find(limit, where)

    async def __aenter__(self) -> Self:
        self._recent.bind(asyncio.get_running_loop())
        self._writer.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        self._closed = True
        await asyncio.to_thread(self._writer.close, self._settings.close_timeout)
        self._recent.bind(None)
        stats = self.stats()
        lost = stats["dropped"] + sum(sink.get("dropped", 0) for sink in stats["sinks"].values())
        if lost:
            _log.error("%d records were dropped in this process's life: %s", lost, stats)


def _redactor(settings: LoggingSettings, gateway: Gateway) -> Redactor:
    secrets = Secrets([*gateway.config.secrets, *secrets_in(settings)])
    asking = next((index for index, rule in enumerate(settings.content) if "name" in rule.redact), None)
    if asking is None:
        return Redactor(secrets)
    if not settings.names_model:
        raise ConfigError(f"content[{asking}].redact: 'name' needs names_model, an installed spaCy model")
    return Redactor(secrets, Names(settings.names_model))


def _before(recorder: Recorder) -> Any:
    """The hook that only a gateway which records content has: the others save the call."""

    @hookimpl
    async def pre_route(exchange: Exchange) -> None:
        recorder.begin(exchange)

    return pre_route
