"""Turns MiniLM's safetensors into an int8 ONNX file: numpy and a few bytes of protobuf, no torch, no `onnx` package.

The graph is BERT with mean pooling and normalising. Matrices are int8 with one scale per output column and run as
`DynamicQuantizeMatMul`; values stay within 7 bits, because 8 bits saturate on x86 processors without VNNI. The word
embeddings are int8 with one scale per row. Inputs are `input_ids` and `attention_mask` (int64, batch x tokens, padded
with 0), the output is `embedding` (float32, batch x 384, length 1).
"""

from __future__ import annotations

import json
import struct
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Graph", "build_minilm", "read_safetensors"]

_OPSET = 17
_LIMIT = 63  # 7 bits: see above
_NUMBERS = {"F32": np.float32, "F16": np.float16, "I64": np.int64}
_TYPES = {np.dtype(np.float32): 1, np.dtype(np.int8): 3, np.dtype(np.int64): 7, np.dtype(np.uint8): 2}


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


def build_minilm(tensors: Mapping[str, NDArray[Any]], *, heads: int = 12, quantized: bool = True) -> bytes:
    """Return the ONNX file's bytes. `quantized=False` keeps float32: what the int8 file is compared with."""
    graph = Graph(quantized=quantized)
    hidden = _embed(graph, tensors)
    for layer in range(_layers(tensors)):
        hidden = _layer(graph, tensors, hidden, prefix=f"encoder.layer.{layer}", heads=heads)
    _pool(graph, hidden)
    return graph.serialize(tensors["embeddings.word_embeddings.weight"].shape[1])


def _layers(tensors: Mapping[str, NDArray[Any]]) -> int:
    return 1 + max(int(name.split(".")[2]) for name in tensors if name.startswith("encoder.layer."))


def _embed(graph: Graph, tensors: Mapping[str, NDArray[Any]]) -> str:
    words = tensors["embeddings.word_embeddings.weight"]
    if graph.quantized:
        scale = np.maximum(np.abs(words).max(axis=1, keepdims=True), 1e-12).astype(np.float32) / 127
        table = graph.constant("words", np.rint(words / scale).astype(np.int8))
        rows = graph.node("Cast", [graph.node("Gather", [table, "input_ids"])], to=1)
        scales = graph.node("Gather", [graph.constant("word_scales", scale), "input_ids"])
        hidden = graph.node("Mul", [rows, scales])
    else:
        hidden = graph.node("Gather", [graph.constant("words", words), "input_ids"])
    positions = tensors["embeddings.position_embeddings.weight"] + tensors["embeddings.token_type_embeddings.weight"][0]
    table = graph.constant("positions", positions.astype(np.float32))
    length = graph.node("Shape", ["input_ids"], start=1, end=2)
    zero, axis = graph.constant("zero", np.array([0], np.int64)), graph.constant("axis0", np.array([0], np.int64))
    hidden = graph.node("Add", [hidden, graph.node("Slice", [table, zero, length, axis])])
    return _norm(graph, hidden, tensors, "embeddings.LayerNorm")


def _layer(graph: Graph, tensors: Mapping[str, NDArray[Any]], hidden: str, *, prefix: str, heads: int) -> str:
    self_ = f"{prefix}.attention.self"
    parts = [_dense(graph, hidden, tensors, f"{self_}.{part}") for part in ("query", "key", "value")]
    # com.microsoft's MultiHeadAttention: scaled, masked by the inputs' padding
    mixed = graph.node("MultiHeadAttention", [*parts, "", graph.mask()], domain="com.microsoft", num_heads=heads)
    mixed = _dense(graph, mixed, tensors, f"{prefix}.attention.output.dense")
    hidden = _norm(graph, graph.node("Add", [hidden, mixed]), tensors, f"{prefix}.attention.output.LayerNorm")
    inner = _dense(graph, hidden, tensors, f"{prefix}.intermediate.dense")
    inner = graph.node("Gelu", [inner], domain="com.microsoft")
    inner = _dense(graph, inner, tensors, f"{prefix}.output.dense")
    return _norm(graph, graph.node("Add", [hidden, inner]), tensors, f"{prefix}.output.LayerNorm")


def _pool(graph: Graph, hidden: str) -> None:
    mask = graph.node("Cast", ["attention_mask"], to=1)
    last, middle = graph.constant("axis2", np.array([2], np.int64)), graph.constant("axis1", np.array([1], np.int64))
    mask = graph.node("Unsqueeze", [mask, last])
    total = graph.node("ReduceSum", [graph.node("Mul", [hidden, mask]), middle], keepdims=0)
    mean = graph.node("Div", [total, graph.node("ReduceSum", [mask, middle], keepdims=0)])
    length = graph.node("ReduceL2", [mean], axes=[1], keepdims=1)
    graph.node("Div", [mean, length], output="embedding")


def _dense(graph: Graph, value: str, tensors: Mapping[str, NDArray[Any]], name: str) -> str:
    weight = np.ascontiguousarray(tensors[f"{name}.weight"].T)
    bias = graph.constant(f"{name}.bias", tensors[f"{name}.bias"])
    if not graph.quantized:
        product = graph.node("MatMul", [value, graph.constant(f"{name}.weight", weight)])
        return graph.node("Add", [product, bias])
    scale = np.abs(weight).max(axis=0).astype(np.float32) / _LIMIT
    inputs = [
        value,
        graph.constant(f"{name}.weight", np.rint(weight / scale).astype(np.int8)),
        graph.constant(f"{name}.scale", scale),
        graph.constant(f"{name}.zero", np.zeros(scale.shape, np.int8)),
        bias,
    ]
    return graph.node("DynamicQuantizeMatMul", inputs, domain="com.microsoft")


def _norm(graph: Graph, value: str, tensors: Mapping[str, NDArray[Any]], name: str) -> str:
    scale, bias = (graph.constant(f"{name}.{part}", tensors[f"{name}.{part}"]) for part in ("weight", "bias"))
    return graph.node("LayerNormalization", [value, scale, bias], axis=-1, epsilon=1e-12)


class Graph:
    """Collects nodes and constants, and writes them as an ONNX `ModelProto` (field numbers from onnx.proto3)."""

    def __init__(self, *, quantized: bool) -> None:
        self.quantized = quantized
        self._nodes: list[bytes] = []
        self._constants: dict[str, bytes] = {}
        self._mask = ""

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """Add a tensor; its name is what nodes refer to."""
        dims = b"".join(_varint(1, size) for size in value.shape)
        raw = _bytes(9, np.ascontiguousarray(value).tobytes())
        self._constants[name] = dims + _varint(2, _TYPES[value.dtype]) + _bytes(8, name.encode()) + raw
        return name

    def node(
        self,
        op: str,
        inputs: Sequence[str],
        *,
        domain: str = "",
        output: str = "",
        **attributes: int | float | list[int],
    ) -> str:
        """Add an operation; the name of its output is what nodes refer to."""
        output = output or f"{op}_{len(self._nodes)}"
        parts = [_bytes(1, name.encode()) for name in inputs]
        parts += [_bytes(2, output.encode()), _bytes(4, op.encode())]
        parts += [_bytes(5, _attribute(name, value)) for name, value in attributes.items()]
        self._nodes.append(b"".join(parts) + (_bytes(7, domain.encode()) if domain else b""))
        return output

    def mask(self) -> str:
        """`attention_mask` as int32."""
        if not self._mask:
            self._mask = self.node("Cast", ["attention_mask"], to=6)
        return self._mask

    def serialize(self, dimension: int) -> bytes:
        """The file's bytes; the node whose output is `embedding` is the result, batch x `dimension`."""
        body = [_bytes(1, node) for node in self._nodes] + [_bytes(2, b"minilm")]
        body += [_bytes(5, constant) for constant in self._constants.values()]
        body += [_bytes(11, _value(name, 7, ["batch", "tokens"])) for name in ("input_ids", "attention_mask")]
        body.append(_bytes(12, _value("embedding", 1, ["batch", dimension])))
        opsets = [_bytes(8, _bytes(1, domain) + _varint(2, v)) for domain, v in ((b"", _OPSET), (b"com.microsoft", 1))]
        return b"".join([_varint(1, 8), _bytes(2, b"junctor"), _bytes(7, b"".join(body)), *opsets])


def _value(name: str, kind: int, shape: Sequence[str | int]) -> bytes:
    dims = [_bytes(1, _varint(1, d) if isinstance(d, int) else _bytes(2, d.encode())) for d in shape]
    tensor = _varint(1, kind) + _bytes(2, b"".join(dims))
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, tensor))


def _attribute(name: str, value: float | list[int]) -> bytes:
    head = _bytes(1, name.encode())
    if isinstance(value, list):
        return head + b"".join(_varint(8, item) for item in value) + _varint(20, 7)
    if isinstance(value, float):
        return head + b"\x15" + struct.pack("<f", value) + _varint(20, 1)
    return head + _varint(3, value) + _varint(20, 2)


def _varint(field: int, value: int) -> bytes:
    return _number(field << 3) + _number(value & 0xFFFFFFFFFFFFFFFF)


def _bytes(field: int, value: bytes) -> bytes:
    return _number(field << 3 | 2) + _number(len(value)) + value


def _number(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
