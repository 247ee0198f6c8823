"""A last look at a hit before it is served, inside a limit of time. No answer by then is a miss."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from junctor_semantic_cache.judges import ask_yes_no

if TYPE_CHECKING:
    from pathlib import Path

    from junctor import Exchange, Gateway

    from junctor_semantic_cache.settings import VerifierSettings

__all__ = ["CrossEncoder", "ModelVerifier", "Verifier", "make_verifier"]


class Verifier(Protocol):
    """Tells whether one answer serves both questions."""

    async def same(self, asked: str, known: str, *, parent: Exchange) -> bool: ...
    async def aclose(self) -> None: ...


class CrossEncoder:
    """A BERT-like model over both questions at once; one output is a logit, two are those of no and yes."""

    def __init__(self, model: Path, *, threshold: float) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session: Any = onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        self._inputs = {given.name for given in self._session.get_inputs()}
        self._tokenizer = Tokenizer.from_file(str(model.with_name("tokenizer.json")))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(512)
        self._threshold = threshold
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="semantic-cache-verify")

    async def same(self, asked: str, known: str, *, parent: Exchange) -> bool:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._same, asked, known)

    def _same(self, asked: str, known: str) -> bool:
        encoding = self._tokenizer.encode(asked, known)
        given = {
            "input_ids": encoding.ids,
            "attention_mask": encoding.attention_mask,
            "token_type_ids": encoding.type_ids,
        }
        arrays = {name: np.array([ids], np.int64) for name, ids in given.items() if name in self._inputs}
        logits = np.asarray(self._session.run(None, arrays)[0], np.float64).reshape(-1)
        logit = float(logits[0]) if len(logits) == 1 else float(logits[-1] - logits[0])
        return bool(1.0 / (1.0 + np.exp(-logit)) >= self._threshold)

    async def aclose(self) -> None:
        self._thread.shutdown(wait=True)


_ASK = """Would one and the same answer serve both questions completely? Mind numbers, names, negation and scope.
Reply with one word, yes or no.

Question one: {asked}

Question two: {known}"""


class ModelVerifier:
    """A model of the gateway, asked through the gateway."""

    def __init__(self, gateway: Gateway, model: str, *, timeout: float) -> None:
        self._gateway = gateway
        self._model = model
        self._timeout = timeout

    async def same(self, asked: str, known: str, *, parent: Exchange) -> bool:
        text = _ASK.format(asked=asked, known=known)
        return await ask_yes_no(self._gateway, self._model, text, purpose="judge", parent=parent, timeout=self._timeout)

    async def aclose(self) -> None:
        return None


def make_verifier(settings: VerifierSettings, *, gateway: Gateway) -> Verifier:
    """The verifier of the configuration's section."""
    if settings.onnx is not None:
        return CrossEncoder(settings.onnx.expanduser(), threshold=settings.threshold)
    return ModelVerifier(gateway, str(settings.model), timeout=settings.timeout)
