"""Looks up, decides, stores and learns. Knows nothing of hooks and headers."""

from __future__ import annotations

import asyncio
import base64
import random
import time
import uuid
import zlib
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from junctor_semantic_cache.evidence import normalise, parse
from junctor_semantic_cache.judges import answer_text
from junctor_semantic_cache.scoring import best_candidate
from junctor_semantic_cache.store import Entry, Selection, entry_id, touched

if TYPE_CHECKING:
    import numpy as np
    from junctor import Exchange
    from numpy.typing import NDArray

    from junctor_semantic_cache.controller import Namespace, Verdict
    from junctor_semantic_cache.embedders import Embedder
    from junctor_semantic_cache.judges import Judge
    from junctor_semantic_cache.namespaces import Namespaces
    from junctor_semantic_cache.partition import Question
    from junctor_semantic_cache.purges import Purges
    from junctor_semantic_cache.scoring import Scored, Weights
    from junctor_semantic_cache.settings import SemanticCacheSettings
    from junctor_semantic_cache.store import VectorStore
    from junctor_semantic_cache.verifiers import Verifier

__all__ = ["Engine", "Lookup", "pack", "unpack"]

_NEIGHBOURS = 8
_WORTH_A_HIT = 6 * 3600.0  # seconds that a hit keeps an entry from being evicted
_CONTROLS = 0.05  # share of labels at which a judge is asked about two answers that cannot agree


@dataclass(slots=True)
class Lookup:
    """One request's way: what was found, what was decided, and why."""

    question: Question
    id: str
    outcome: str = "miss"  # hit, exact, shadow, miss
    why: str = "no candidate"
    vector: NDArray[np.float32] | None = None
    scored: Scored | None = None
    verdict: Verdict | None = None
    entry: Entry | None = None
    verify: bool = False
    ttl: float | None = None
    facts: dict[str, Any] = field(default_factory=dict)


class Engine:
    """One embedder, one store, one judge, and the namespaces."""

    def __init__(
        self,
        settings: SemanticCacheSettings,
        weights: Weights,
        namespaces: Namespaces,
        *,
        embedder: Embedder,
        store: VectorStore,
        judge: Judge,
        purges: Purges,
        verifier: Verifier | None = None,
        chance: random.Random | None = None,
    ) -> None:
        self._settings = settings
        self._weights = weights
        self._namespaces = namespaces
        self.embedder = embedder
        self.store = store
        self.judge = judge
        self.verifier = verifier
        self._purges = purges
        self._chance = chance or random.Random()
        self._last: dict[str, tuple[NDArray[np.float32], str]] = {}
        self._since_eviction = 0
        self._read = lru_cache(maxsize=4096)(parse)

    async def look(self, exchange: Exchange, question: Question, *, serving: bool) -> Lookup:
        """Find what may answer. The lookup says what is to be served, and carries what learning needs later."""
        namespace = self._namespaces[question.namespace]
        namespace.request()
        identity = entry_id(question.scope, question.tenant, question.partition, normalise(question.text))
        found = Lookup(question, identity)
        same = await self._get(identity)
        if same is not None and same.expires > time.time():
            return self._exact(found, same, namespace, serving=serving)
        found.vector = await self.embedder.embed(question.text, parent=exchange)
        found.scored = await self._nearest(question, found.vector)
        if found.scored is None:
            return found
        found.facts = {"similarity": round(found.scored.candidate.similarity, 4), "evidence": found.scored.evidence}
        if found.scored.veto:
            found.why = f"veto: {found.scored.veto}"
            return found
        return await self._decide(exchange, found, namespace, serving=serving)

    async def _get(self, identity: str) -> Entry | None:
        """The entry, unless it was purged."""
        entry = await self.store.get(identity)
        return None if entry is None or self._purges.hides(entry) else entry

    def _exact(self, found: Lookup, entry: Entry, namespace: Namespace, *, serving: bool) -> Lookup:
        """The very same words: no question of meaning."""
        found.entry, found.why = entry, "same words"
        found.outcome = "exact" if serving else "shadow"
        found.facts = {"similarity": 1.0}
        if serving:
            namespace.exact_hits += 1
            namespace.saved += entry.cost
        return found

    async def _nearest(self, question: Question, vector: NDArray[np.float32]) -> Scored | None:
        where = {"scope": question.scope, "tenant": question.tenant, "partition": question.partition}
        candidates = await self.store.search(vector, where=where, limit=_NEIGHBOURS)
        now = time.time()
        # The filter is the store's business; an answer that crossed a border would be ours.
        near = [
            candidate
            for candidate in candidates
            if candidate.similarity >= self._settings.min_similarity
            and candidate.entry.expires > now
            and not self._purges.hides(candidate.entry)
            and (candidate.entry.scope, candidate.entry.tenant, candidate.entry.partition)
            == (question.scope, question.tenant, question.partition)
        ]
        return best_candidate(self._read(question.text), near, self._weights, read=self._read) if near else None

    async def _decide(self, exchange: Exchange, found: Lookup, namespace: Namespace, *, serving: bool) -> Lookup:
        assert found.scored is not None
        candidate = found.scored.candidate
        verdict = found.verdict = namespace.judge(found.scored.signals)
        found.why = verdict.why
        found.facts |= {"risk": round(verdict.risk, 5), "limit": verdict.limit}
        serve = verdict.serve
        if serve and verdict.risk > candidate.entry.floor:
            serve, found.why = False, "entry was wrong before"
        if serve and self.verifier is not None and not await self._verified(exchange, found):
            serve, found.why = False, "verifier said no"
        if not serve:
            return found
        if not serving:
            found.outcome, found.why = "shadow", "would be served"
            namespace.shadow_hits += 1
            return found
        entry = await self._get(candidate.entry.id)
        if entry is None or not entry.answer:
            found.why = "entry is gone"
            return found
        namespace.served(verdict.risk, saved=entry.cost)
        found.outcome, found.entry = "hit", entry
        found.verify = self._chance.random() < verdict.verify
        return found

    async def _verified(self, exchange: Exchange, found: Lookup) -> bool:
        assert self.verifier is not None
        assert found.scored is not None
        assert self._settings.verifier is not None
        try:
            async with asyncio.timeout(self._settings.verifier.timeout):
                known = found.scored.candidate.entry.text
                return await self.verifier.same(found.question.text, known, parent=exchange)
        except Exception:  # a model's runtime, or a provider: not to know is not to serve
            return False

    async def store_answer(self, exchange: Exchange, found: Lookup, body: bytes, *, fresh: dict[str, Any]) -> None:
        """Learn from a fresh answer, and keep it. `fresh` has cost, tokens and tags of the answer."""
        answer = answer_text(body)
        group = self.judge.key(answer)
        scored = found.scored
        if scored is not None and scored.signals:
            known = scored.candidate.entry
            if group is not None:
                same: bool | None = group == known.group
            else:
                same = await self._same(exchange, found, known, answer)
            if same is not None:
                await self._learn(found, wrong=not same, hit=False)
                if same:
                    group = known.group
        await self._put(exchange, found, body, group or uuid.uuid4().hex[:24], fresh=fresh)

    async def _same(self, exchange: Exchange, found: Lookup, known: Entry, answer: str) -> bool | None:
        """Ask a judge that must see both answers, and now and then one question that it must deny: an answer to this
        and one to a question that is not even near."""
        whole = await self.store.get(known.id)
        if whole is None or not whole.answer:
            return None
        namespace = self._namespaces[found.question.namespace]
        other = self._last.get(found.question.namespace)
        far = other is not None and found.vector is not None and float(other[0] @ found.vector)
        if other is not None and far < self._settings.min_similarity and self._chance.random() < _CONTROLS:
            namespace.judge_checks += 1
            namespace.judge_false += await self.judge.same(found.question.text, other[1], answer, parent=exchange)
        if found.vector is not None and len(self._last) < self._settings.max_namespaces:
            self._last[found.question.namespace] = (found.vector, answer[:20_000])
        return await self.judge.same(found.question.text, answer_text(unpack(whole.answer)), answer, parent=exchange)

    async def check_hit(self, exchange: Exchange, found: Lookup, body: bytes, *, fresh: dict[str, Any]) -> None:
        """Compare the answer that was served with one that the provider gave afterwards."""
        assert found.entry is not None
        answer = answer_text(body)
        group = self.judge.key(answer)
        same = (
            group == found.entry.group
            if group is not None
            else await self.judge.same(
                found.question.text, answer_text(unpack(found.entry.answer)), answer, parent=exchange
            )
        )
        await self._learn(found, wrong=not same, hit=True)
        if not same:
            await self._put(exchange, found, body, group or uuid.uuid4().hex[:24], fresh=fresh)

    async def _learn(self, found: Lookup, *, wrong: bool, hit: bool) -> None:
        assert found.scored is not None
        namespace = self._namespaces[found.question.namespace]
        if found.outcome == "shadow":
            namespace.shadow_wrong += wrong
        if namespace.learn(found.scored.signals, wrong=wrong, hit=hit):
            namespace.adopt(await asyncio.to_thread(namespace.fit()))
        known = found.scored.candidate.entry
        values: dict[str, Any] = {"wrong": known.wrong + 1} if wrong else {"right": known.right + 1}
        if wrong and found.verdict is not None:
            values["floor"] = min(known.floor, found.verdict.risk / 2)
        await self.store.update(known.id, values)

    async def _put(self, exchange: Exchange, found: Lookup, body: bytes, group: str, *, fresh: dict[str, Any]) -> None:
        question, now = found.question, time.time()
        if found.vector is None:
            found.vector = await self.embedder.embed(question.text, parent=exchange)
        own = self._namespaces.own(question.namespace)
        ttl = self._settings.volatile_ttl if question.volatile else (own.ttl if own and own.ttl else self._settings.ttl)
        if found.ttl is not None:
            ttl = min(found.ttl, ttl) if question.volatile else found.ttl
        if ttl <= 0:
            return
        entry = Entry(
            found.id,
            question.scope,
            question.tenant,
            question.partition,
            question.namespace,
            question.text,
            group,
            pack(body),
            question.model,
            question.template,
            created=exchange.started_at,
            expires=now + ttl,
            worth=now,
        )
        entry = replace(entry, **fresh)
        if self._purges.forbids(entry):
            return
        await self.store.put(entry, found.vector)
        self._since_eviction += 1
        if self._since_eviction >= max(1, min(1000, self._settings.store.max_entries // 20)):
            await self.sweep()

    async def touch(self, entry: Entry) -> None:
        """Note that the entry was served."""
        await self.store.update(entry.id, touched(entry, bonus=_WORTH_A_HIT))

    async def sweep(self) -> None:
        """Drop what has expired, and what is worth least above the size that is allowed."""
        self._since_eviction = 0
        await self.store.delete(Selection(before={"expires": time.time()}))
        surplus = await self.store.count(Selection()) - self._settings.store.max_entries
        while surplus > 0:
            least = await self.store.least(min(surplus, 1000))
            if not least:
                return
            await self.store.remove(least)
            surplus -= len(least)


def pack(body: bytes) -> str:
    """An answer as text, compressed where that saves space."""
    if len(body) > 512:
        return "z" + base64.b85encode(zlib.compress(body, 3)).decode()
    return "b" + base64.b85encode(body).decode()


def unpack(text: str) -> bytes:
    """What `pack` packed."""
    raw = base64.b85decode(text[1:])
    return zlib.decompress(raw) if text[0] == "z" else raw
