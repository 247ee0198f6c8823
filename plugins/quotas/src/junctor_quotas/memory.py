"""The atomic steps for the memory store, as `lua.py` has them for Redis."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from junctor.state import Script

from junctor_quotas import lua

if TYPE_CHECKING:
    from collections.abc import Sequence

    from junctor.state import Entries

__all__ = ["ADJUST", "INDEX", "LIST", "READ", "RENEW", "RESERVE", "RESTORE", "SETTLE"]

_REAP = 50
_EPOCH_TTL = 3_456_000.0
_Record = list[tuple[str, int, int, int]]  # counter, kind, amount, part


class _Counter:
    """What was used within the window, in its parts, and what running requests hold."""

    __slots__ = ("held", "oldest", "parts", "total")

    def __init__(self) -> None:
        self.total = 0
        self.held = 0
        self.oldest = -1
        self.parts: dict[int, int] = {}

    def roll(self, now: int, width: int, count: int) -> None:
        keep = now // width - count
        if count == 0 or self.oldest < 0 or self.oldest >= keep:
            return
        parts = self.parts
        for part in [part for part in parts if part < keep]:
            self.total -= parts.pop(part)
        self.oldest = keep

    def add(self, amount: int, now: int, width: int) -> None:
        part = now // width
        self.total += amount
        self.parts[part] = self.parts.get(part, 0) + amount
        if self.oldest < 0:
            self.oldest = part

    def release(self, amount: int) -> None:
        self.held -= min(self.held, amount)

    def wait(self, need: int, now: int, width: int, count: int) -> int:
        """Milliseconds until so much has left a sliding window; -2 if that is not known."""
        freed = 0
        for part in sorted(self.parts):
            freed += self.parts[part]
            if freed >= need:
                return (part + count + 1) * width - now
        return -2


def _counter(entries: Entries, key: str) -> _Counter:
    found: _Counter | None = entries.get(key)
    return _Counter() if found is None else found


def _leases(entries: Entries, key: str) -> OrderedDict[str, tuple[int, _Record]]:
    """Lease → (expiry, record), the next to expire first: all have the same length."""
    found: OrderedDict[str, tuple[int, _Record]] | None = entries.get(key)
    if found is None:
        found = OrderedDict()
        entries.set(key, found)
    return found


def _reap(entries: Entries, leases: OrderedDict[str, tuple[int, _Record]], now: int) -> None:
    for _ in range(_REAP):
        lease = next(iter(leases), None)
        if lease is None or leases[lease][0] > now:
            return
        for key, kind, amount, _part in leases.pop(lease)[1]:
            if kind and (counter := entries.get(key)) is not None:
                counter.release(amount)


def _epoch(entries: Entries, key: str, expected: str, new: str) -> tuple[bytes, bool]:
    epoch: bytes | None = entries.get(key)
    if epoch is None:
        epoch = new.encode()
        entries.set(key, epoch, _EPOCH_TTL)
    return epoch, not expected or expected.encode() == epoch


def _reserve(entries: Entries, keys: Sequence[str], arguments: Sequence[Any]) -> list[Any]:
    now = int(entries.now() * 1000)
    expected, new, lease, ttl, force = arguments[:5]
    epoch, known = _epoch(entries, keys[2], expected, new)
    if not known:
        return [3, now, epoch]
    rows = [arguments[a : a + 10] for a in range(5, len(arguments), 10)]
    for row in rows:
        if row[7] and not force and (now >= row[7] or now < row[6]):
            return [2, now, epoch]
    leases = _leases(entries, keys[0])
    _reap(entries, leases, now)
    overrides: dict[str, int] = entries.get(keys[3]) or {}
    old = leases.get(lease)
    if force and old is not None:
        return [1, now, epoch]
    counters, hards = [], []
    refused, wait = 0, 0
    for place, (key, row) in enumerate(zip(keys[4:], rows, strict=True), 1):
        kind, _charge, more, hard, width, count, _from, until = row[:8]
        if overrides:
            hard = overrides.get(row[9], hard)
        counter = _counter(entries, key)
        counter.roll(now, width, count)
        counters.append(counter)
        hards.append(hard)
        need = counter.total + counter.held + more - hard
        if need > 0 and more > 0 and not force:
            if more > hard:
                pause = -1
            elif kind == 2:
                pause = -2
            elif count == 0:
                pause = until - now if counter.total > 0 else -2
            else:
                pause = counter.wait(need, now, width, count)
            if not refused or pause == -1 or (wait != -1 and pause > wait):
                refused, wait = place, pause
    if refused:
        answer = [0, now, epoch, refused, wait]
        for counter, hard in zip(counters, hards, strict=True):
            answer += (counter.total, counter.held, hard)
        return answer
    answer = [1, now, epoch]
    record: _Record = []
    for place, (row, counter) in enumerate(zip(rows, counters, strict=True)):
        key = keys[place + 4]
        held = old[1][place] if old is not None else None
        kind, change = _apply(counter, row, held[2] if held else 0, now, force)
        if row[1] or change:
            entries.set(key, counter, row[8] / 1000)
        record.append((key, kind, max(0, (held[2] if held else 0) + change), held[3] if held else now // row[4]))
        answer += (counter.total, counter.held, hards[place])
    leases[lease] = (now + ttl, record)
    leases.move_to_end(lease)
    entries.set(keys[0], leases)  # in use, so not the first to go when there is no room
    return answer


def _apply(counter: _Counter, row: Sequence[Any], held: int, now: int, force: int) -> tuple[int, int]:
    """Count or hold what was admitted; the kind, and by how much the lease's amount changes."""
    kind, charge, more = row[:3]
    if kind == 0:
        if more and not force:
            counter.add(more, now, row[4])
        return 0, more
    if charge:
        counter.add(charge, now, row[4])
        more -= min(charge, held)
    change: int = max(more, -counter.held)
    counter.held += change
    return kind, change


def _settle(entries: Entries, keys: Sequence[str], arguments: Sequence[Any]) -> list[Any]:
    now = int(entries.now() * 1000)
    epoch, known = _epoch(entries, keys[2], arguments[0], arguments[1])
    if not known:
        return [3, now, epoch]
    _, record = _leases(entries, keys[0]).pop(arguments[2], (0, None))
    answer = [1, now, epoch]
    for place, key in enumerate(keys[4:]):
        kind, final, width, count, ttl = arguments[3 + place * 5 : 8 + place * 5]
        counter = _counter(entries, key)
        counter.roll(now, width, count)
        amount, part = record[place][2:] if record else (0, 0)
        if kind == 0:
            if final == 0 and amount and (count == 0 or part >= now // width - count):
                counter.total -= amount
                counter.parts[part] = counter.parts.get(part, 0) - amount
        else:
            counter.release(amount)
            if kind == 1 and final > 0:
                counter.add(final, now, width)
                entries.set(key, counter, ttl / 1000)
        answer += (counter.total, counter.held)
    return answer


def _renew(entries: Entries, keys: Sequence[str], arguments: Sequence[Any]) -> list[bytes]:
    now = int(entries.now() * 1000)
    leases = _leases(entries, keys[0])
    lost = []
    for lease in arguments[1:]:
        found = leases.pop(lease, None)
        if found is None:
            lost.append(lease.encode())
            continue
        leases[lease] = (now + arguments[0], found[1])
        for key, *_ in found[1]:
            if (counter := entries.get(key)) is not None:
                entries.set(key, counter, max(3 * arguments[0] / 1000, 3600.0))
    return lost


def _restore(entries: Entries, keys: Sequence[str], arguments: Sequence[Any]) -> list[Any]:
    now = int(entries.now() * 1000)
    epoch, _ = _epoch(entries, keys[2], "", arguments[0])
    for place, key in enumerate(keys[4:]):
        used, width, count, ttl = arguments[1 + place * 4 : 5 + place * 4]
        counter = _counter(entries, key)
        counter.roll(now, width, count)
        if used > counter.total:
            counter.add(used - counter.total, now, width)
            entries.set(key, counter, ttl / 1000)
    return [1, now, epoch]


def _read(entries: Entries, keys: Sequence[str], arguments: Sequence[Any]) -> list[int]:
    now = int(entries.now() * 1000)
    _reap(entries, _leases(entries, keys[0]), now)
    overrides: dict[str, int] = entries.get(keys[3]) or {}
    answer = [now]
    for place, key in enumerate(keys[4:]):
        width, count, name = arguments[place * 3 : place * 3 + 3]
        counter = _counter(entries, key)
        counter.roll(now, width, count)
        part = now // width
        recent = counter.parts.get(part - 1, 0), counter.parts.get(part, 0)
        answer += (counter.total, counter.held, overrides.get(name, -1), *recent)
    return answer


def _adjust(entries: Entries, keys: Sequence[str], arguments: Sequence[Any]) -> int:
    name, hard, used, width, _count, ttl = arguments
    overrides: dict[str, int] = entries.get(keys[3]) or {}
    if hard == -2:
        overrides.pop(name, None)
    elif hard != -1:
        overrides[name] = hard
    entries.set(keys[3], overrides)
    if used != -1:
        counter = _Counter()
        counter.held = _counter(entries, keys[4]).held
        counter.add(used, int(entries.now() * 1000), width)
        entries.set(keys[4], counter, ttl / 1000)
    return 1


def _index(entries: Entries, keys: Sequence[str], arguments: Sequence[Any]) -> int:
    now = int(entries.now() * 1000)
    known: OrderedDict[bytes, tuple[int, bytes]] = entries.get(keys[0]) or OrderedDict()
    for place in range(2, len(arguments), 2):
        name = arguments[place].encode()
        known[name] = (now, arguments[place + 1].encode())
        known.move_to_end(name)
    gone = 0
    while known and (len(known) > arguments[1] or next(iter(known.values()))[0] < now - arguments[0]):
        known.popitem(last=False)
        gone += 1
    entries.set(keys[0], known)
    return gone


def _list(entries: Entries, keys: Sequence[str], arguments: Sequence[Any]) -> list[bytes]:
    known: OrderedDict[bytes, tuple[int, bytes]] = entries.get(keys[0]) or OrderedDict()
    answer: list[bytes] = []
    for name, (_, about) in reversed(known.items()):
        if len(answer) >= 2 * arguments[0]:
            break
        answer += (name, about)
    return answer


RESERVE = Script("quotas.reserve", lua.RESERVE, _reserve)
SETTLE = Script("quotas.settle", lua.SETTLE, _settle)
RENEW = Script("quotas.renew", lua.RENEW, _renew)
RESTORE = Script("quotas.restore", lua.RESTORE, _restore)
READ = Script("quotas.read", lua.READ, _read)
ADJUST = Script("quotas.adjust", lua.ADJUST, _adjust)
INDEX = Script("quotas.index", lua.INDEX, _index)
LIST = Script("quotas.list", lua.LIST, _list)
