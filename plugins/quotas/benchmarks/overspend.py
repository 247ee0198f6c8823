"""What a burst spends of a limit of requests and one of tokens: Junctor, and LiteLLM's proxy if asked. Prints JSON.

    python overspend.py [--redis redis://127.0.0.1:6379/0] [--litellm] [--peer-url http://127.0.0.1:4000 --model NAME]

Every answer of the provider takes half a second, so that all of the burst is in flight before the first answer is
counted; `spent` is more than 1 where the limit of a minute was exceeded. Junctor runs alone with its memory and, with
`--redis`, as two workers on one store. `--litellm` installs the proxy into a folder of its own (see
`benchmarks/run.py`) and starts it with `rpm` or `tpm` on the model and its router's check `enforce_model_rate_limits`;
`--peer-url` asks a proxy that runs already.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import re
import sys
import tempfile
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml
from junctor.faults import answer
from junctor.faulty_server import FaultyServer
from junctor.services import free_port

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ROOT = Path(__file__).parents[3]
LIMIT, BURST, ANSWER_SECONDS = 20, 200, 0.5
TOKENS = 15  # of an answer, with its question
LIMITS = {"requests": LIMIT, "tokens": LIMIT * TOKENS}


async def ask(port: int, model: str, *, host: str = "127.0.0.1") -> tuple[int, str]:
    """Status and text of one answer, on a connection of its own; 0 if there was none."""
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 20}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n"
    head += f"authorization: Bearer sk-benchmark\r\nconnection: close\r\ncontent-length: {len(body)}\r\n\r\n"
    try:
        reader, writer = await asyncio.open_connection(host, port)
        writer.write(head.encode() + body)
        status = int((await reader.readuntil(b"\r\n")).split()[1])
        text = (await reader.read()).decode(errors="replace").partition("\r\n\r\n")[2]
        writer.close()
    except (OSError, EOFError, asyncio.IncompleteReadError):
        return 0, ""
    return status, text


async def burst(port: int, model: str = "test", *, host: str = "127.0.0.1") -> dict[str, Any]:
    """All at once; what became of them."""
    answers = await asyncio.gather(*(ask(port, model, host=host) for _ in range(BURST)))
    statuses = Counter(status for status, _ in answers)
    reasons = Counter(text[:300] for status, text in answers if status != 200)
    row = {"admitted": statuses[200], "spent": statuses[200] / LIMIT, "statuses": dict(statuses)}
    return row | {"most_often_refused_with": reasons.most_common(1)[0][0] if reasons else ""}


@contextlib.asynccontextmanager
async def started(command: list[str], log: Path, **environ: str) -> AsyncIterator[None]:
    with log.open("w") as out:
        process = await asyncio.create_subprocess_exec(*command, stdout=out, stderr=out, env=os.environ | environ)
    try:
        yield
    finally:
        process.terminate()
        await process.wait()


async def junctor(provider: str, folder: Path, dimension: str, *, redis: str = "") -> dict[str, Any]:
    workers = 2 if redis else 1
    tree: dict[str, Any] = {
        "server": {"port": free_port(), "workers": workers},
        "models": [{"name": "test", "targets": [{"target": "openai/m", "api_key": "sk-x", "base_url": provider}]}],
        "plugins": [
            {"quotas": {"limits": [{"name": "rate", dimension: LIMITS[dimension], "window": "minute"}]}},
            "relay",
        ],
    }
    if redis:
        tree["state"] = {"url": redis, "prefix": f"bench-{uuid.uuid4().hex[:8]}:", "timeout": 1.0}
    (folder / "junctor.yaml").write_text(yaml.safe_dump(tree))
    log = folder / "junctor.log"
    async with started([sys.executable, "-m", "junctor", "serve", "-c", str(folder / "junctor.yaml")], log):
        await until(lambda: len(re.findall("ready on", log.read_text())) == workers, log)
        return await burst(tree["server"]["port"])


async def litellm(provider: str, folder: Path, dimension: str) -> dict[str, Any]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    from run import environment

    home = Path(os.environ.get("JUNCTOR_BENCHMARKS", Path.home() / ".cache" / "junctor-benchmarks"))
    binary = Path(environment(home / "litellm", "litellm[proxy]")).parent / "litellm"
    # Without a number of its own the proxy derives one from `tpm`, which would be measured instead of the limit.
    parameters: dict[str, Any] = {
        "model": "openai/m",
        "api_key": "sk-x",
        "api_base": provider,
        "max_parallel_requests": BURST,
    }
    parameters |= {"rpm" if dimension == "requests" else "tpm": LIMITS[dimension]}
    tree = {
        "model_list": [{"model_name": "test", "litellm_params": parameters}],
        "router_settings": {"optional_pre_call_checks": ["enforce_model_rate_limits"], "num_retries": 0},
    }
    (folder / "litellm.yaml").write_text(yaml.safe_dump(tree))
    port, log = free_port(), folder / "litellm.log"
    command = [str(binary), "--config", str(folder / "litellm.yaml"), "--port", str(port), "--host", "127.0.0.1"]
    environ = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_DOCS": "True"}
    environ["LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"] = "true"
    async with started(command, log, **environ):
        await until(lambda: "startup complete" in log.read_text(), log)
        await asyncio.sleep(60 - time.time() % 60 + 0.5)  # its minute is the clock's: the burst shall not cross two
        return await burst(port)


async def until(condition: Any, log: Path, seconds: float = 120) -> None:
    for _ in range(round(seconds * 10)):
        if condition():
            return
        await asyncio.sleep(0.1)
    raise SystemExit(await asyncio.to_thread(log.read_text))


async def main(args: argparse.Namespace) -> None:
    result: dict[str, Any] = {"limits": LIMITS, "burst": BURST}
    async with FaultyServer(answer(delay=ANSWER_SECONDS)) as provider:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for dimension in LIMITS:
                rows = result[dimension] = {"junctor": await junctor(provider.url, folder, dimension)}
                if args.redis:
                    rows["junctor_2_workers"] = await junctor(provider.url, folder, dimension, redis=args.redis)
                if args.litellm:
                    rows["litellm"] = await litellm(provider.url, folder, dimension)
        if args.peer_url:
            url = urlsplit(args.peer_url)
            result["peer"] = await burst(url.port or 80, args.model, host=url.hostname or "127.0.0.1")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--redis", default="", help="the store of two workers")
    parser.add_argument("--litellm", action="store_true", help="install and start LiteLLM's proxy as well")
    parser.add_argument("--peer-url", default="", help="a proxy that runs already, with a limit of 20 a minute")
    parser.add_argument("--model", default="test", help="the model to ask the peer for")
    asyncio.run(main(parser.parse_args()))
