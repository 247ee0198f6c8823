"""The child process: llama.cpp's own HTTP server on a free port of 127.0.0.1, until standard input ends.

It is run as a file, not as a module of the package, so that it imports xllamacpp and nothing of Junctor. One line of
JSON comes in on standard input (`Engine` writes it), one goes out on standard output: the port, or what went wrong.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
from typing import Any

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1  # prctl(2)


def main() -> int:
    """Serve until the parent closes our standard input or dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the gateway, which lets running requests finish
    options = json.loads(sys.stdin.readline())
    _die_with(options["parent"])
    with os.fdopen(os.dup(1), "w") as out:
        os.dup2(2, 1)  # whatever the library prints goes to the log, not into the answer
        try:
            server = _serve(options)
        except Exception as error:  # someone else's code; the parent says it
            print(json.dumps({"error": f"{type(error).__name__}: {error}"}), file=out, flush=True)
            return 1
        print(json.dumps({"port": int(server.listening_address.rpartition(":")[2])}), file=out, flush=True)
    sys.stdin.read()
    os._exit(0)  # running requests belong to a gateway that is gone


def _die_with(parent: int) -> None:
    """Have the kernel end us with the parent: while a model loads, nobody here can see that stdin has ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)


def _serve(options: dict[str, Any]) -> Any:
    xllamacpp = importlib.import_module("xllamacpp")  # here, because an import error is an answer, too
    params = xllamacpp.CommonParams()
    params.model.path = options["model"]
    params.model_alias = {options["name"]}
    params.hostnames, params.port = ["127.0.0.1"], 0
    params.api_keys = [options["api_key"]]  # other users of this machine, and pages in a browser, are not the gateway
    params.cors_origins = ""
    params.ui = params.endpoint_slots = params.endpoint_props = False
    params.n_parallel = options["parallel"]
    params.n_ctx = options["context"] * options["parallel"]
    params.n_predict = options["max_tokens"]
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = options["threads"]
    # A connection that is open holds a thread, also when it is idle: requests, kept connections, health checks.
    params.n_threads_http = 2 * options["parallel"] + 4
    params.cache_ram_mib, params.cache_idle_slots = 0, False  # the default may take 8 GiB
    params.embedding = options["embeddings"]
    if options["pooling"]:
        kind = f"LLAMA_POOLING_TYPE_{options['pooling'].upper()}"
        params.pooling_type = getattr(xllamacpp.llama_pooling_type, kind)
    params.chat_template = options["template"]
    params.verbosity = 1  # errors only: more would show prompts
    return xllamacpp.Server(params)


if __name__ == "__main__":
    sys.exit(main())
