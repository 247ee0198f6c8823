"""Requests per CPU-second, added latency, chunks, memory, start-up: Junctor and its peers, side by side in one run.

    python benchmarks/run.py                                  # Junctor and bare Starlette
    python benchmarks/run.py --peer litellm --peer portkey    # and peers, each installed into its own folder

Each candidate runs alone on one core; the provider and the load share another one, so the load's figures are no
measure of anything. What counts is the candidate's CPU time a request, which other work on the machine hardly moves.
Every round measures all candidates in turn; the table shows medians over the rounds.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
ROOT = HERE.parent
GATEWAY_CORE, OTHER_CORE = "0", "1"
FIRST_PORT = 4400
RELAYED = {"target": "openai/gpt-4o-mini", "api_key": "sk-x", "base_url": "http://127.0.0.1:{provider}/v1"}


@dataclass
class Candidate:
    """Something to measure: how to start it on a port before a provider's port, and how to ask it."""

    name: str
    command: Callable[[int, int], list[str]]
    model: str = "gpt-4o-mini"
    environ: dict[str, str] = field(default_factory=dict)
    headers: Callable[[int], dict[str, str]] = lambda provider: {}
    streams: bool = True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", action="append", default=[], choices=sorted(PEERS), help="a peer to measure as well")
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="measure only these candidates")
    parser.add_argument("--seconds", type=float, default=4.0, help="of load, for each figure")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=16)
    parser.add_argument("--json", type=Path, help="write everything here")
    args = parser.parse_args()
    folder = Path(os.environ.get("JUNCTOR_BENCHMARKS", Path.home() / ".cache" / "junctor-benchmarks"))
    folder.mkdir(parents=True, exist_ok=True)
    candidates = [*own(folder), *(PEERS[name](folder) for name in args.peer)]
    if args.only:
        candidates = [candidate for candidate in candidates if candidate.name in args.only]
    rows: dict[str, list[dict[str, float]]] = {candidate.name: [] for candidate in candidates}
    with provider() as port:
        for number in range(args.rounds):
            for place, candidate in enumerate(candidates):
                row = measure(candidate, port, FIRST_PORT + place, args)
                rows[candidate.name].append(row)
                print(f"round {number + 1}: {candidate.name}: {row['cpu_us']:.0f} us a request", file=sys.stderr)
    report(rows, import_times(), args)


def own(folder: Path) -> list[Candidate]:
    """Bare Starlette, Junctor with nothing but the relay, with the example's plugins, and its litellm lane."""

    def bare(provider: int, port: int) -> list[str]:
        return [sys.executable, str(HERE / "bare.py"), str(provider), str(port)]

    foreign = {"target": "anthropic/claude-haiku-4-5", "api_key": "sk-x", "wire": "anthropic"}
    foreign["base_url"] = "http://127.0.0.1:{provider}"
    return [
        Candidate("bare Starlette", bare),
        junctor(folder, "junctor relay only", ["relay"]),
        junctor(folder, "junctor default", example_plugins()),
        junctor(folder, "junctor litellm lane", ["litellm"], foreign),
    ]


def junctor(folder: Path, name: str, plugins: list[Any], target: dict[str, str] = RELAYED) -> Candidate:
    """Junctor with these plugins; its requests pass by the caches."""

    def command(provider: int, port: int) -> list[str]:
        placed = {**target, "base_url": target["base_url"].format(provider=provider)}
        file = folder / f"{name.replace(' ', '-')}.yaml"
        models = [{"name": "gpt-4o-mini", "targets": [placed]}]
        file.write_text(yaml.safe_dump({"models": models, "plugins": plugins}))
        return [sys.executable, "-m", "junctor", "serve", "-c", str(file), "--port", str(port)]

    return Candidate(name, command, headers=lambda provider: {"cache-control": "no-store"})


def example_plugins() -> list[Any]:
    """The plugins of `config.example.yaml`, but for the local model; with a limit that a load does not reach."""
    plugins = yaml.safe_load((ROOT / "config.example.yaml").read_text())["plugins"]
    for entry in plugins:
        if isinstance(entry, dict) and "quotas" in entry:
            entry["quotas"]["limits"][0]["requests"] = 10**9
    return [entry for entry in plugins if entry != "local"]


def litellm(folder: Path) -> Candidate:
    """LiteLLM's proxy, in a virtual environment of its own."""
    python = environment(folder / "litellm", "litellm[proxy]")

    def command(provider: int, port: int) -> list[str]:
        parameters = {"model": "openai/gpt-4o-mini", "api_key": "sk-x", "api_base": f"http://127.0.0.1:{provider}/v1"}
        config = {"model_list": [{"model_name": "gpt-4o-mini", "litellm_params": parameters}]}
        (folder / "litellm.yaml").write_text(yaml.safe_dump(config))
        binary = str(Path(python).parent / "litellm")
        return [binary, "--config", str(folder / "litellm.yaml"), "--port", str(port), "--host", "127.0.0.1"]

    environ = {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "NO_DOCS": "True"}
    environ["LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"] = "true"  # as open as the others here are
    return Candidate("LiteLLM proxy", command, environ=environ)


def portkey(folder: Path) -> Candidate:
    """Portkey's gateway for Node."""
    home = folder / "portkey"
    start = home / "node_modules/@portkey-ai/gateway/build/start-server.js"
    if not start.exists():
        home.mkdir(exist_ok=True)
        subprocess.run(["npm", "install", "--no-audit", "--no-fund", "@portkey-ai/gateway"], cwd=home, check=True)

    def headers(provider: int) -> dict[str, str]:
        return {"x-portkey-provider": "openai", "x-portkey-custom-host": f"http://127.0.0.1:{provider}/v1"}

    def command(provider: int, port: int) -> list[str]:
        return ["node", str(start), f"--port={port}", "--headless"]

    environ = {"TRUSTED_CUSTOM_HOSTS": "127.0.0.1,localhost"}
    return Candidate("Portkey", command, environ=environ, headers=headers)


PEERS = {"litellm": litellm, "portkey": portkey}


def environment(place: Path, *packages: str) -> str:
    """The interpreter of a virtual environment with these packages."""
    python = place / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *packages], check=True)
    return str(python)


@contextlib.contextmanager
def provider() -> Iterator[int]:
    command = ["taskset", "-c", OTHER_CORE, sys.executable, str(HERE / "provider.py")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()


def measure(candidate: Candidate, provider_port: int, port: int, args: argparse.Namespace) -> dict[str, float]:
    started = time.perf_counter()
    with served(candidate, provider_port, port) as pid:
        row = {"start_s": time.perf_counter() - started}
        load(candidate, provider_port, port, 1.0, args.connections)  # warm
        before = cpu_seconds(pid)
        plain = load(candidate, provider_port, port, args.seconds, args.connections)
        between = cpu_seconds(pid)
        row |= {"cpu_us": (between - before) / plain["requests"] * 1e6, "failed": plain["failed"]}
        alone = load(candidate, provider_port, port, args.seconds / 2, 1)
        row |= {"p50_ms": alone["p50_ms"], "p99_ms": alone["p99_ms"]}
        before = cpu_seconds(pid)
        stream = load(candidate, provider_port, port, args.seconds, args.connections, stream=True)
        after = cpu_seconds(pid)
        chunks = stream["chunks"] or float("inf")
        row |= {"chunk_us": (after - before) / chunks * 1e6, "rss_mb": rss(pid)}
        if row["failed"] or stream["failed"]:
            print(f"{candidate.name}: {row['failed']:.0f} requests failed", file=sys.stderr)
        return row


@contextlib.contextmanager
def served(candidate: Candidate, provider_port: int, port: int) -> Iterator[int]:
    """The candidate on its core, once it answers; its process id."""
    command = ["taskset", "-c", GATEWAY_CORE, *candidate.command(provider_port, port)]
    environ = os.environ | candidate.environ
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environ) as process:
        try:
            wait_until_it_answers(candidate, provider_port, port)
            yield process.pid
        finally:
            process.kill()


def load(
    candidate: Candidate, provider_port: int, port: int, seconds: float, connections: int, *, stream: bool = False
) -> dict[str, float]:
    command = ["taskset", "-c", OTHER_CORE, sys.executable, str(HERE / "load.py"), str(port), "/v1/chat/completions"]
    command += [str(seconds), str(connections), candidate.model, json.dumps(candidate.headers(provider_port))]
    command += ["stream"] if stream else []
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, timeout=seconds + 90)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def wait_until_it_answers(candidate: Candidate, provider_port: int, port: int) -> None:
    body = {"model": candidate.model, "messages": [{"role": "user", "content": "hi"}]}
    headers = {"content-type": "application/json", "authorization": "Bearer sk-x", **candidate.headers(provider_port)}
    url = f"http://127.0.0.1:{port}/v1/chat/completions"
    for _ in range(1200):
        request = urllib.request.Request(url, json.dumps(body).encode(), headers)
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=30) as answer:
            if answer.status == 200:
                return
        time.sleep(0.1)
    raise SystemExit(f"{candidate.name} does not answer on port {port}")


def tree(pid: int) -> list[int]:
    """A process and those that it started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in tree(int(child)))]


def cpu_seconds(pid: int) -> float:
    """What a process and its children have used, all threads, to the nanosecond."""
    # The id of a process's clock, as clock_getcpuclockid(3) makes it.
    return sum(time.clock_gettime((~each << 3) | 2) for each in tree(pid))


def rss(pid: int) -> float:
    pages = sum(int(Path(f"/proc/{each}/statm").read_text().split()[1]) for each in tree(pid))
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def import_times() -> dict[str, float]:
    """Milliseconds for `import junctor`, and for what it cannot do without."""

    def best(code: str) -> float:
        times = []
        for _ in range(7):
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True)
            times.append(time.perf_counter() - started)
        return min(times) * 1000

    empty = best("pass")
    needed = "import starlette.applications, starlette.routing, pydantic_settings"
    return {"import_junctor_ms": best("import junctor") - empty, "import_needed_ms": best(needed) - empty}


def report(rows: dict[str, list[dict[str, float]]], imports: dict[str, float], args: argparse.Namespace) -> None:
    medians = {
        name: {key: statistics.median(r[key] for r in found) for key in found[0]} for name, found in rows.items()
    }
    floor = medians.get("bare Starlette", {}).get("cpu_us")
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {args.rounds} rounds of {args.seconds:g} s\n")
    print("| | CPU a request | requests a CPU-second | to bare | CPU a chunk | p50 / p99 alone | memory | start |")
    print("|---|---|---|---|---|---|---|---|")
    for name, row in medians.items():
        ratio = f"{row['cpu_us'] / floor:.2f}" if floor else "–"
        chunk = f"{row['chunk_us']:.1f} µs" if row["chunk_us"] else "–"
        print(
            f"| {name} | {row['cpu_us']:.0f} µs | {1e6 / row['cpu_us']:.0f} | {ratio} | {chunk} "
            f"| {row['p50_ms']:.2f} / {row['p99_ms']:.2f} ms | {row['rss_mb']:.0f} MB | {row['start_s']:.1f} s |"
        )
    print(f"\nimport junctor: {imports['import_junctor_ms']:.0f} ms; ", end="")
    print(f"Starlette and pydantic-settings: {imports['import_needed_ms']:.0f} ms")
    if args.json is not None:
        everything = {
            "date": datetime.now(UTC).isoformat(),
            "cores": os.cpu_count(),
            "rounds": rows,
            "imports": imports,
        }
        args.json.write_text(json.dumps(everything, indent=1))


if __name__ == "__main__":
    main()
