"""What plugins of the example cost in a gateway that serves: CPU time a request with them, less that without. A table.

    python benchmarks/plugins.py logging metrics [--rounds 40] [--seconds 0.6]

One gateway without any of them, one with each, and one with all are up at once, on one core, and loaded in turn, in
another order each round, so that whatever else the machine does falls on all alike. What counts is the median of the
rounds' differences. It is more than a loop around the plugin's own code would show: here that code finds the CPU's
caches full of the rest of the gateway, and leaves them full of its own; and what a plugin does in a thread, later, is
in it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from run import FIRST_PORT, Candidate, cpu_seconds, example_plugins, junctor, load, provider, served

_BEHIND = 0.5  # seconds after the load for what plugins do behind the answers


def main() -> None:
    """Measure and print."""
    listed = {entry if isinstance(entry, str) else next(iter(entry)): entry for entry in example_plugins()}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plugin", nargs="+", choices=sorted(listed.keys() - {"relay"}), help="to do without")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=0.6, help="of load, for each figure")
    parser.add_argument("--connections", type=int, default=16)
    args = parser.parse_args()
    chosen = {f"with {name}": [name] for name in args.plugin}
    if len(chosen) > 1:
        chosen["with all of them"] = args.plugin
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        candidates = [
            junctor(Path(folder), name, [listed[each] for each in listed if each in kept or each not in args.plugin])
            for name, kept in {"without": [], **chosen}.items()
        ]
        report(measure(candidates, args), args)


def measure(candidates: list[Candidate], args: argparse.Namespace) -> dict[str, list[float]]:
    """For each candidate, its CPU time a request in each round, in microseconds."""
    found: dict[str, list[float]] = {candidate.name: [] for candidate in candidates}
    with contextlib.ExitStack() as stack:
        behind = stack.enter_context(provider())
        running = [
            (candidate, port, stack.enter_context(served(candidate, behind, port)))
            for port, candidate in enumerate(candidates, FIRST_PORT)
        ]
        for candidate, port, _ in running:
            load(candidate, behind, port, 2.0, args.connections)  # warm
        for _ in range(args.rounds):
            random.shuffle(running)
            for candidate, port, pid in running:
                before = cpu_seconds(pid)
                done = load(candidate, behind, port, args.seconds, args.connections)
                time.sleep(_BEHIND)
                if done["failed"]:
                    raise SystemExit(f"{candidate.name}: {done['failed']:.0f} requests failed")
                found[candidate.name].append((cpu_seconds(pid) - before) / done["requests"] * 1e6)
    return found


def report(found: dict[str, list[float]], args: argparse.Namespace) -> None:
    """The table."""
    without = found["without"]
    print(f"{datetime.now(UTC):%Y-%m-%d}, {os.cpu_count()} cores, {args.rounds} rounds of {args.seconds:g} s\n")
    print("| | CPU a request, least / median | more than without, median | ratio |")
    print("|---|---|---|---|")
    for name, values in found.items():
        more = statistics.median(value - other for value, other in zip(values, without, strict=True))
        ratio = statistics.median(value / other for value, other in zip(values, without, strict=True))
        print(f"| {name} | {min(values):.0f} / {statistics.median(values):.0f} µs | {more:.0f} µs | {ratio:.2f} |")


if __name__ == "__main__":
    main()
