"""Who may see the page: a signed cookie that ends by itself, made from the admin key, and a limit on guesses.

Nothing is stored for a session: every worker and replica with the same admin key can check it, and another key ends all
of them. A session that was logged out is remembered until it would have ended.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from junctor.state import StateUnavailable

if TYPE_CHECKING:
    from junctor.state import State

__all__ = ["COOKIE", "Session", "Sessions"]

COOKIE = "junctor_dashboard"
_WINDOW = 60
_REMEMBERED = 4096


class Session(NamedTuple):
    """A login. `expires` is seconds since the epoch; `csrf` is what an action of this session must send."""

    id: str
    expires: float
    csrf: str


class Sessions:
    """Makes and checks sessions. `attempts` are the logins that one address may try in a minute."""

    def __init__(self, admin_key: str, state: State, *, lifetime: float, attempts: int) -> None:
        self.lifetime = lifetime
        self._attempts = attempts
        self._state = state
        self._key = hashlib.sha256(admin_key.encode()).digest()
        self._secret = hmac.digest(admin_key.encode(), b"junctor dashboard session", "sha256")
        self._ended: OrderedDict[str, float] = OrderedDict()
        self._tried: OrderedDict[str, int] = OrderedDict()

    def right(self, key: str) -> bool:
        """Whether this is the admin key; digests are compared, in constant time whatever the lengths."""
        return hmac.compare_digest(hashlib.sha256(key.encode("utf-8", "replace")).digest(), self._key)

    async def may_try(self, address: str) -> bool:
        """Count a login from this address; False if there were too many in this minute."""
        name = f"dashboard:login:{hashlib.sha256(address.encode()).hexdigest()[:32]}:{int(time.time()) // _WINDOW}"
        try:
            tried = await self._state.increment(name, ttl=2 * _WINDOW)
        except StateUnavailable:  # then each worker counts for itself
            tried = self._tried[name] = self._tried.get(name, 0) + 1
            if len(self._tried) > _REMEMBERED:
                self._tried.popitem(last=False)
        return tried <= self._attempts

    @staticmethod
    def equal(one: str, other: str) -> bool:
        """Whether two words are equal, in constant time."""
        return hmac.compare_digest(one.encode("utf-8", "replace"), other.encode("utf-8", "replace"))

    def begin(self) -> tuple[Session, str]:
        """A new session, and the cookie's value for it."""
        number, expires = secrets.token_hex(16), int(time.time() + self.lifetime)
        payload = f"{number}.{expires}"
        return self._session(number, expires), f"{payload}.{self._sign('session', payload)}"

    async def of(self, cookie: str | None) -> Session | None:
        """The session that a cookie stands for; None if it is forged, over, or was logged out."""
        payload, _, signature = (cookie or "").rpartition(".")
        number, _, expires = payload.partition(".")
        wanted = self._sign("session", payload)
        if not hmac.compare_digest(signature.encode("utf-8", "replace"), wanted.encode()) or not expires.isdigit():
            return None
        if int(expires) <= time.time() or await self._is_over(number):
            return None
        return self._session(number, int(expires))

    async def end(self, session: Session) -> None:
        """Log out: the cookie is of no use from now on, wherever it was copied to."""
        self._ended[session.id] = session.expires
        while len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)
        with suppress(StateUnavailable):
            await self._state.set(_ended(session.id), b"1", ttl=max(1.0, session.expires - time.time()))

    async def _is_over(self, number: str) -> bool:
        if number in self._ended:
            return True
        try:
            return await self._state.get(_ended(number)) is not None
        except StateUnavailable:  # the signature holds; the operator must see the page just then
            return False

    def _session(self, number: str, expires: float) -> Session:
        return Session(number, expires, self._sign("csrf", number))

    def _sign(self, what: str, text: str) -> str:
        return hmac.new(self._secret, f"{what}:{text}".encode("utf-8", "replace"), "sha256").hexdigest()


def _ended(number: str) -> str:
    return f"dashboard:ended:{number}"
