"""The beat: counts what came, shares it with the other workers, and tells those who watch."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from junctor import jsons
from junctor.state import Script, StateUnavailable

from junctor_dashboard.merge import costs_of, targets_of, traffic_of
from junctor_dashboard.sources import caches_of, quotas_of
from junctor_dashboard.story import as_json, summary_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from junctor.state import Entries, State

    from junctor_dashboard.sources import Sources
    from junctor_dashboard.traffic import Traffic

__all__ = ["Hub", "Watcher"]

_log = logging.getLogger("junctor.dashboard")
_BEAT = 0.2
_TTL = 5.0
_WATCHED = 10_000
_GONE = 10_000
_CHANNEL = "dashboard:stories"
_WORKERS = "dashboard:{workers}"
_NAMES = 60
_COSTS_EVERY = 5.0
_LAST_STORIES = 200

_ENROL_LUA = """
local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000)
redis.call('HSET', KEYS[1], ARGV[1], now)
if ARGV[2] == '1' then redis.call('HSET', KEYS[1], 'watched', now) end
local found, watched, all = {}, 0, redis.call('HGETALL', KEYS[1])
for i = 1, #all, 2 do
  local age = now - tonumber(all[i + 1])
  if all[i] == 'watched' then
    if age < tonumber(ARGV[4]) then watched = 1 end
  elseif age < tonumber(ARGV[3]) then found[#found + 1] = all[i]
  else redis.call('HDEL', KEYS[1], all[i]) end
end
redis.call('PEXPIRE', KEYS[1], 60000)
table.sort(found)
return {watched, unpack(found)}
"""


def _enrol(entries: Entries, keys: Sequence[str], arguments: Sequence[Any]) -> list[Any]:
    now = int(entries.now() * 1000)
    seen: dict[str, int] = dict(entries.get(keys[0]) or {})
    seen[str(arguments[0])] = now
    if int(arguments[1]):
        seen["watched"] = now
    watched = now - seen.get("watched", 0) < int(arguments[3])
    kept = {name: at for name, at in seen.items() if name == "watched" or now - at < int(arguments[2])}
    entries.set(keys[0], kept, 60.0)
    return [int(watched), *(name.encode() for name in sorted(kept) if name != "watched")]


ENROL = Script("dashboard.enrol", _ENROL_LUA, _enrol)
"""Says that this worker lives (and whether it is watched); answers whether any is, and who lives."""


class Watcher:
    """One open page: what it has not been told yet. Lines over its bound push the oldest out."""

    def __init__(self) -> None:
        self.lines: deque[dict[str, Any]] = deque(maxlen=_LAST_STORIES)
        self.news = asyncio.Event()
        self._sent: dict[str, bytes] = {}

    def fresh(self, sections: dict[str, bytes]) -> bytes | None:
        """What of the sections has changed since it was last asked, as one JSON object."""
        changed = {name: text for name, text in sections.items() if self._sent.get(name) != text}
        if not changed:
            return None
        self._sent.update(changed)
        return b"{" + b",".join(b'"%s":%s' % (name.encode(), text) for name, text in changed.items()) + b"}"


class Hub:
    """Owns the tasks that run beside the requests."""

    def __init__(self, traffic: Traffic, sources: Sources, state: State, *, workers: int) -> None:
        self.sections: dict[str, bytes] = {}
        self.watchers: set[Watcher] = set()
        self._traffic = traffic
        self._sources = sources
        self._state = state
        self._workers = workers
        self._began = time.time()
        self._others: list[str] = []
        self._partial = False
        self._costs_due = 0.0
        self._tasks: list[asyncio.Task[None]] = []
        self._kick = asyncio.Event()

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._run())]
        if self._state.shared:
            self._tasks.append(asyncio.create_task(self._listen()))

    async def aclose(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def watch(self) -> Watcher:
        """A page was opened; end it with `leave`."""
        watcher = Watcher()
        watcher.lines.extend(summary_of(story) for story in list(self._traffic.stories)[-_LAST_STORIES:])
        if self.sections:
            watcher.news.set()
        self.watchers.add(watcher)
        self._kick.set()
        return watcher

    def leave(self, watcher: Watcher) -> None:
        self.watchers.discard(watcher)

    async def _run(self) -> None:
        due = 0.0
        while True:
            try:
                await self._told(self._traffic.digest())
                now = time.monotonic()
                if now >= due or self._kick.is_set():
                    self._kick.clear()
                    due = now + 1.0 - _BEAT / 2
                    await self._beat()
            except Exception:  # the page must not go blind for one bad turn
                _log.exception("the dashboard's figures could not be made")
            try:
                async with asyncio.timeout(_BEAT):
                    await self._kick.wait()
            except TimeoutError:
                continue

    async def _told(self, stories: Sequence[dict[str, Any]]) -> None:
        if not stories:
            return
        self._show(stories)
        if self._state.shared:
            try:
                message = as_json({"from": self._traffic.worker, "stories": stories})
                await self._state.publish(_CHANNEL, message)
            except StateUnavailable:
                self._partial = True

    def _show(self, stories: Sequence[dict[str, Any]]) -> None:
        if not self.watchers:
            return
        lines = [summary_of(story) for story in stories]
        for watcher in self.watchers:
            watcher.lines.extend(lines)
            watcher.news.set()

    async def _listen(self) -> None:
        """The stories of the other workers."""
        async for message in self._state.subscribe(_CHANNEL):
            try:
                told = jsons.loads(message)
                if told["from"] != self._traffic.worker:
                    self._traffic.stories.extend(told["stories"])
                    self._show(told["stories"])
            except (ValueError, KeyError, TypeError):
                _log.warning("a worker told exchanges in a form that is not known here")

    async def _beat(self) -> None:
        """Once a second: say that we live; if a page is open anywhere, publish; if here, make its figures."""
        watched = bool(self.watchers)
        if self._state.shared:
            watched = await self._enrol()
        if not watched:
            return
        mine = {"traffic": self._traffic.part(), "gathered": await self._sources.gather()}
        if self._state.shared:
            await self._publish(mine)
        if self.watchers:
            await self._make(mine)

    async def _enrol(self) -> bool:
        arguments = [self._traffic.worker, int(bool(self.watchers)), _GONE, _WATCHED]
        try:
            watched, *workers = await self._state.run(ENROL, [_WORKERS], arguments)
        except StateUnavailable:
            self._partial = True
            return bool(self.watchers)
        self._partial = False
        self._others = [name for name in map(bytes.decode, workers) if name != self._traffic.worker]
        return bool(watched)

    async def _publish(self, mine: dict[str, Any]) -> None:
        now = time.monotonic()
        try:
            await self._state.set(f"dashboard:part:{self._traffic.worker}", jsons.dumps(mine), ttl=_TTL)
            if now >= self._costs_due:
                self._costs_due = now + _COSTS_EVERY
                table = jsons.dumps(self._traffic.spent(_NAMES))
                await self._state.set(f"dashboard:costs:{self._traffic.worker}", table, ttl=3 * _COSTS_EVERY)
        except StateUnavailable:
            self._partial = True

    async def _parts(self, kind: str) -> list[Any]:
        """What the other workers have published."""
        found = await asyncio.gather(
            *(self._state.get(f"dashboard:{kind}:{name}") for name in self._others), return_exceptions=True
        )
        if any(isinstance(one, BaseException) for one in found):
            self._partial = True
        return [jsons.loads(one) for one in found if isinstance(one, bytes)]

    async def costs(self, by: str) -> dict[str, Any]:
        """The last hour by minute, of all workers."""
        return costs_of([self._traffic.spent(_NAMES), *await self._parts("costs")], by)

    async def _make(self, mine: dict[str, Any]) -> None:
        parts = [mine, *await self._parts("part")]
        traffics = [part["traffic"] for part in parts]
        gathered = [part["gathered"] for part in parts]
        self.sections = {
            "meta": jsons.dumps(
                {
                    "workers": len(parts),
                    "expected": max(self._workers, len(self._others) + 1) if self._state.shared else 1,
                    "partial": self._partial,
                    "since": self._began,
                    "plugins": self._sources.enabled,
                }
            ),
            "traffic": jsons.dumps(traffic_of(traffics)),
            "quotas": jsons.dumps(quotas_of(gathered)),
            "targets": jsons.dumps(self._targets(traffics, gathered)),
            "caches": jsons.dumps(caches_of(gathered)),
        }
        for watcher in self.watchers:
            watcher.news.set()

    def _targets(self, traffics: Sequence[Any], gathered: Sequence[Any]) -> list[dict[str, Any]]:
        figures, circuits = targets_of(traffics), gathered[0]["circuits"] or {}
        running: dict[str, int] = {}
        for one in gathered:
            for name, count in (one["in_flight"] or {}).items():
                running[name] = running.get(name, 0) + count
        known = any(one["in_flight"] is not None for one in gathered)
        return [
            {
                **row,
                **figures.get(row["id"], {}),
                "circuit": circuits.get(row["id"]),
                "in_flight": running.get(row["id"], 0) if known else None,
            }
            for row in self._sources.targets()
        ]
