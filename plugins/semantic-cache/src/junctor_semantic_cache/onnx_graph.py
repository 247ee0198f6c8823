"""Writes ONNX files: a few bytes of protobuf, no `onnx` package."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["Graph"]

_OPSET = 17
_TYPES = {np.dtype(np.float32): 1, np.dtype(np.int8): 3, np.dtype(np.int64): 7, np.dtype(np.uint8): 2}


class Graph:
    """Collects nodes and constants, and writes them as an ONNX `ModelProto` (field numbers from onnx.proto3)."""

    def __init__(self) -> None:
        self._nodes: list[bytes] = []
        self._constants: dict[str, bytes] = {}
        self._outputs: list[bytes] = []

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

    def give(self, name: str, shape: Sequence[str | int]) -> None:
        """Make the float32 output of the node with this name one of the graph's."""
        self._outputs.append(_bytes(12, _value(name, 1, shape)))

    def serialize(self) -> bytes:
        """The file's bytes. The graph takes `input_ids` and `attention_mask`, int64, batch x tokens."""
        body = [_bytes(1, node) for node in self._nodes] + [_bytes(2, b"minilm")]
        body += [_bytes(5, constant) for constant in self._constants.values()]
        body += [_bytes(11, _value(name, 7, ["batch", "tokens"])) for name in ("input_ids", "attention_mask")]
        body += self._outputs
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
