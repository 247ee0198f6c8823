"""A Qdrant server of the test's own: REST in, numpy inside. A body that Qdrant's OpenAPI document forbids is a 400."""

from __future__ import annotations

import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jsonschema
import numpy as np

DOCUMENT = json.loads(Path(__file__).with_name("qdrant_openapi.json").read_text())


def _nullable(node: Any) -> Any:
    """OpenAPI 3.0 says `nullable`, JSON schema says a type more."""
    if isinstance(node, list):
        return [_nullable(item) for item in node]
    if not isinstance(node, dict):
        return node
    node = {key: _nullable(value) for key, value in node.items()}
    return (
        {"anyOf": [{k: v for k, v in node.items() if k != "nullable"}, {"type": "null"}]}
        if node.get("nullable")
        else node
    )


SCHEMAS = {"components": {"schemas": _nullable(DOCUMENT["components"]["schemas"])}}


class FakeQdrant:
    """`collections` holds points by id; `delay` is in seconds, before every answer; `broken` answers 500."""

    def __init__(self) -> None:
        self.collections: dict[str, dict[str, dict[str, Any]]] = {}
        self.dimensions: dict[str, int] = {}
        self.indexes: dict[str, set[str]] = {}
        self.delay = 0.0
        self.broken = False
        self.seen: list[str] = []
        self.keys: set[str] = set()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *args: Any) -> None:
                pass

            def _serve(self) -> None:
                length = int(self.headers.get("content-length") or 0)
                body = json.loads(self.rfile.read(length)) if length else None
                fake.keys.add(self.headers.get("api-key") or "")
                time.sleep(fake.delay)
                status, result = fake.answer(self.command.lower(), self.path, body)
                said = {"error": result} if status != 200 else "ok"
                raw = json.dumps({"time": 0.0, "status": said, "result": result if status == 200 else None}).encode()
                self.send_response(status)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            do_GET = do_PUT = do_POST = do_DELETE = _serve

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    def answer(self, method: str, target: str, body: Any) -> tuple[int, Any]:
        if self.broken:
            return 500, "out of order"
        url = urlsplit(target)
        for template, operations in DOCUMENT["paths"].items():
            match = re.fullmatch(template.replace("{collection_name}", "(?P<name>[^/]+)"), url.path)
            if match and method in operations:
                operation = operations[method]
                if problem := self._problem(operation, url.query, body):
                    return 400, problem
                self.seen.append(operation["operationId"])
                return getattr(self, f"_{operation['operationId']}")(match.groupdict().get("name", ""), body)
        return 404, f"no operation {method} {url.path}"

    def _problem(self, operation: dict[str, Any], query: str, body: Any) -> str | None:
        if unknown := set(parse_qs(query)) - set(operation["parameters"]):
            return f"unknown parameters: {unknown}"
        if "requestBody" not in operation:
            return None if body is None else "a body where none belongs"
        schema = operation["requestBody"]["content"]["application/json"]["schema"]
        errors = list(jsonschema.Draft7Validator({**schema, **SCHEMAS}).iter_errors(body))
        return errors[0].message[:300] if errors else None

    def _get_collections(self, name: str, body: Any) -> tuple[int, Any]:
        return 200, {"collections": [{"name": known} for known in self.collections]}

    def _create_collection(self, name: str, body: Any) -> tuple[int, Any]:
        if name in self.collections:
            return 409, f"Wrong input: Collection `{name}` already exists!"
        self.collections[name], self.indexes[name] = {}, set()
        self.dimensions[name] = body["vectors"]["size"]
        return 200, True

    def _delete_collection(self, name: str, body: Any) -> tuple[int, Any]:
        return 200, self.collections.pop(name, None) is not None

    def _create_field_index(self, name: str, body: Any) -> tuple[int, Any]:
        self.indexes[name].add(body["field_name"])
        return 200, {"operation_id": 1, "status": "completed"}

    def _upsert_points(self, name: str, body: Any) -> tuple[int, Any]:
        for point in body["points"]:
            if len(point["vector"]) != self.dimensions[name]:
                return 400, f"Wrong input: Vector dimension error: expected dim: {self.dimensions[name]}"
            self.collections[name][point["id"]] = {"vector": np.array(point["vector"]), "payload": point["payload"]}
        return 200, {"operation_id": 1, "status": "completed"}

    def _get_points(self, name: str, body: Any) -> tuple[int, Any]:
        known = self.collections[name]
        return 200, [{"id": i, "payload": known[i]["payload"]} for i in body["ids"] if i in known]

    def _query_points(self, name: str, body: Any) -> tuple[int, Any]:
        asked = body["query"]
        query = np.array(asked["nearest"] if isinstance(asked, dict) else asked)
        found = [(self._cosine(query, p["vector"]), i, p) for i, p in self._matching(name, body.get("filter"))]
        found.sort(key=lambda item: -item[0])
        keep = body["with_payload"]
        points = [
            {"id": i, "version": 1, "score": s, "payload": {k: v for k, v in p["payload"].items() if k in keep}}
            for s, i, p in found[: body["limit"]]
        ]
        return 200, {"points": points}

    def _set_payload(self, name: str, body: Any) -> tuple[int, Any]:
        for identity in body["points"]:
            if identity in self.collections[name]:
                self.collections[name][identity]["payload"].update(body["payload"])
        return 200, {"operation_id": 1, "status": "completed"}

    def _delete_points(self, name: str, body: Any) -> tuple[int, Any]:
        gone = body["points"] if "points" in body else [i for i, _ in self._matching(name, body["filter"])]
        for identity in gone:
            self.collections[name].pop(identity, None)
        return 200, {"operation_id": 1, "status": "completed"}

    def _count_points(self, name: str, body: Any) -> tuple[int, Any]:
        return 200, {"count": len(self._matching(name, body.get("filter")))}

    def _scroll_points(self, name: str, body: Any) -> tuple[int, Any]:
        order = body["order_by"] if isinstance(body["order_by"], str) else body["order_by"]["key"]
        if order not in self.indexes[name]:
            return 400, f"No range index for `order_by` key: `{order}`"
        ordered = sorted(self.collections[name].items(), key=lambda item: item[1]["payload"][order])
        return 200, {"points": [{"id": i} for i, _ in ordered[: body["limit"]]], "next_page_offset": None}

    def _matching(self, name: str, chosen: Any) -> list[tuple[str, dict[str, Any]]]:
        conditions = (chosen or {}).get("must") or []
        return [(i, p) for i, p in self.collections[name].items() if all(_holds(c, p["payload"]) for c in conditions)]

    @staticmethod
    def _cosine(one: Any, other: Any) -> float:
        return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other) or 1.0))


def _holds(condition: dict[str, Any], payload: dict[str, Any]) -> bool:
    value = payload.get(condition["key"])
    if condition.get("match"):
        wanted = condition["match"]["value"]
        return wanted in value if isinstance(value, list) else value == wanted
    return bool(value < condition["range"]["lt"])
