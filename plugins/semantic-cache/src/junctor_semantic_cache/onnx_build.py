"""Turns MiniLM's safetensors into an int8 ONNX file: numpy only, no torch.

The graph is BERT with mean pooling and normalising. Matrices are int8 with one scale per output column and run as
`DynamicQuantizeMatMul`; values stay within 7 bits, because 8 bits saturate on x86 processors without VNNI. The word
embeddings are int8 with one scale per row. Inputs are `input_ids` and `attention_mask` (int64, batch x tokens, padded
with 0), the output is `embedding` (float32, batch x 384, length 1).

What a matrix is applied to is quantized with one scale for all of it, so a few large numbers in it would take the
precision from all others. They are made smaller beforehand, and the matrix's rows larger: SmoothQuant (Xiao et al.,
2022, arXiv:2211.10438), here by the root mean square of each number instead of its maximum. What error is left,
`benchmarks/agreement.py` tells.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from junctor_semantic_cache.onnx_graph import Graph

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    Tensors = Mapping[str, NDArray[Any]]
    Spread = Mapping[str, NDArray[np.float32]]

__all__ = ["build_minilm", "measure_spread", "read_safetensors"]

_LIMIT = 63  # 7 bits: see above
_SMOOTHING = 0.65  # the share of a number's spread that goes into the matrix
_NUMBERS = {"F32": np.float32, "F16": np.float16, "I64": np.int64}
_HEADS = 12


def read_safetensors(path: Path) -> dict[str, NDArray[Any]]:
    """Map the file's tensors, without copying them into memory."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    data = np.memmap(path, mode="r", offset=8 + length, dtype=np.uint8)
    tensors = {}
    for name, entry in header.items():
        start, end = entry["data_offsets"]
        tensors[name] = data[start:end].view(_NUMBERS[entry["dtype"]]).reshape(entry["shape"])
    return tensors


def build_minilm(tensors: Tensors, spread: Spread | None = None) -> bytes:
    """Return the ONNX file's bytes. Without `spread` it is float32, and has what the matrices are applied to as further
    outputs: what `measure_spread` reads."""
    bert = _Bert(tensors, spread)
    hidden = bert.embed()
    for layer in range(1 + max(int(name.split(".")[2]) for name in tensors if name.startswith("encoder.layer."))):
        hidden = bert.layer(hidden, f"encoder.layer.{layer}")
    bert.pool(hidden)
    return bert.graph.serialize()


def measure_spread(tensors: Tensors, texts: Sequence[Sequence[int]]) -> Spread:
    """The root mean square of each number that a matrix is applied to, by the matrix's name. `texts` are token ids."""
    import onnxruntime

    session = onnxruntime.InferenceSession(build_minilm(tensors), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs() if output.name != "embedding"]
    squares: dict[str, Any] = dict.fromkeys(names, 0.0)
    for ids in texts:
        given = np.array([ids], np.int64)
        found = session.run(names, {"input_ids": given, "attention_mask": np.ones_like(given)})
        for name, values in zip(names, found, strict=True):
            squares[name] = squares[name] + np.square(values[0]).sum(axis=0)
    tokens = sum(map(len, texts))
    return {name: np.sqrt(square / tokens).astype(np.float32) for name, square in squares.items()}


@dataclass
class _Bert:
    """The parts of the network, as nodes of a graph."""

    tensors: Tensors
    spread: Spread | None
    graph: Graph = field(default_factory=Graph)

    def embed(self) -> str:
        graph, tensors = self.graph, self.tensors
        words = tensors["embeddings.word_embeddings.weight"]
        if self.spread is None:
            hidden = graph.node("Gather", [graph.constant("words", words), "input_ids"])
        else:
            scale = np.maximum(np.abs(words).max(axis=1, keepdims=True), 1e-12).astype(np.float32) / 127
            table = graph.constant("words", np.rint(words / scale).astype(np.int8))
            rows = graph.node("Cast", [graph.node("Gather", [table, "input_ids"])], to=1)
            scales = graph.node("Gather", [graph.constant("word_scales", scale), "input_ids"])
            hidden = graph.node("Mul", [rows, scales])
        types = tensors["embeddings.token_type_embeddings.weight"][0]
        positions = (tensors["embeddings.position_embeddings.weight"] + types).astype(np.float32)
        table = graph.constant("positions", positions)
        length = graph.node("Shape", ["input_ids"], start=1, end=2)
        zero, axis = graph.constant("zero", np.array([0], np.int64)), graph.constant("axis0", np.array([0], np.int64))
        hidden = graph.node("Add", [hidden, graph.node("Slice", [table, zero, length, axis])])
        graph.node("Cast", ["attention_mask"], to=6, output="mask")
        return self._norm(hidden, "embeddings.LayerNorm")

    def layer(self, hidden: str, prefix: str) -> str:
        graph, self_ = self.graph, f"{prefix}.attention.self"
        parts = self._dense(hidden, f"{self_}.query", f"{self_}.key", f"{self_}.value")
        # com.microsoft's MultiHeadAttention: scaled, masked by the inputs' padding
        mixed = graph.node("MultiHeadAttention", [*parts, "", "mask"], domain="com.microsoft", num_heads=_HEADS)
        (mixed,) = self._dense(mixed, f"{prefix}.attention.output.dense")
        hidden = self._norm(graph.node("Add", [hidden, mixed]), f"{prefix}.attention.output.LayerNorm")
        (inner,) = self._dense(hidden, f"{prefix}.intermediate.dense")
        inner = graph.node("Gelu", [inner], domain="com.microsoft")
        (inner,) = self._dense(inner, f"{prefix}.output.dense")
        return self._norm(graph.node("Add", [hidden, inner]), f"{prefix}.output.LayerNorm")

    def pool(self, hidden: str) -> None:
        graph = self.graph
        mask = graph.node("Cast", ["attention_mask"], to=1)
        middle, last = (graph.constant(f"axis{axis}", np.array([axis], np.int64)) for axis in (1, 2))
        mask = graph.node("Unsqueeze", [mask, last])
        total = graph.node("ReduceSum", [graph.node("Mul", [hidden, mask]), middle], keepdims=0)
        mean = graph.node("Div", [total, graph.node("ReduceSum", [mask, middle], keepdims=0)])
        length = graph.node("ReduceL2", [mean], axes=[1], keepdims=1)
        graph.node("Div", [mean, length], output="embedding")
        graph.give("embedding", ["batch", self.tensors["embeddings.word_embeddings.weight"].shape[1]])

    def _dense(self, value: str, *names: str) -> list[str]:
        """The value times each of these matrices, plus its bias."""
        weights = [self.tensors[f"{name}.weight"] for name in names]
        if self.spread is None:
            self.graph.node("Identity", [value], output=names[0])
            self.graph.give(names[0], ["batch", "tokens", weights[0].shape[1]])
            return [self._product(value, name, weight) for name, weight in zip(names, weights, strict=True)]
        smaller = _smoothing(self.spread[names[0]], weights)
        value = self.graph.node("Mul", [value, self.graph.constant(f"{names[0]}.smaller", 1 / smaller)])
        return [self._int8(value, name, weight * smaller) for name, weight in zip(names, weights, strict=True)]

    def _product(self, value: str, name: str, weight: NDArray[np.float32]) -> str:
        product = self.graph.node("MatMul", [value, self.graph.constant(f"{name}.weight", weight.T)])
        return self.graph.node("Add", [product, self.graph.constant(f"{name}.bias", self.tensors[f"{name}.bias"])])

    def _int8(self, value: str, name: str, weight: NDArray[np.float32]) -> str:
        scale = np.abs(weight).max(axis=1) / _LIMIT
        inputs = [
            value,
            self.graph.constant(f"{name}.weight", np.rint(weight.T / scale).astype(np.int8)),
            self.graph.constant(f"{name}.scale", scale),
            self.graph.constant(f"{name}.zero", np.zeros(scale.shape, np.int8)),
            self.graph.constant(f"{name}.bias", self.tensors[f"{name}.bias"]),
        ]
        return self.graph.node("DynamicQuantizeMatMul", inputs, domain="com.microsoft")

    def _norm(self, value: str, name: str) -> str:
        parts = [self.graph.constant(f"{name}.{part}", self.tensors[f"{name}.{part}"]) for part in ("weight", "bias")]
        return self.graph.node("LayerNormalization", [value, *parts], axis=-1, epsilon=1e-12)


def _smoothing(spread: NDArray[np.float32], weights: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """By what each number is divided, and its row of the matrices multiplied; 1 in the geometric mean."""
    largest = np.max([np.abs(weight).max(axis=0) for weight in weights], axis=0)
    ratio = np.log(np.maximum(spread, 1e-3)) * _SMOOTHING - np.log(np.maximum(largest, 1e-3)) * (1 - _SMOOTHING)
    smaller: NDArray[np.float32] = np.exp(ratio - ratio.mean()).astype(np.float32)
    return smaller
