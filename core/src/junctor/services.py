"""Real servers for tests: found on this machine, started from the binary, or the test is skipped with the reason."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.parse
import uuid
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = [
    "Served",
    "free_port",
    "postgres_url",
    "prefix",
    "process",
    "redis_url",
    "require",
    "serving",
    "wait_for_port",
]


def require(found: object, reason: str) -> None:
    """Skip the test when something is not there; fail it when JUNCTOR_TEST_REQUIRE=all."""
    if found:
        return
    if os.environ.get("JUNCTOR_TEST_REQUIRE") == "all":
        _fail(reason)
    pytest.skip(reason)


def _fail(reason: str) -> NoReturn:
    pytest.fail(f"JUNCTOR_TEST_REQUIRE=all: {reason}")


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def wait_for_port(port: int, seconds: float = 10.0) -> bool:
    """Wait until somebody listens on a port of this machine; False if nobody does in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.2):
            return True
        time.sleep(0.02)
    return False


@contextmanager
def process(
    arguments: Sequence[str], folder: Path, *, log: Path | None = None, environ: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A child process that ends with the block; `log` gets its standard error, `environ` goes over this process's."""
    with Path(log or os.devnull).open("wb") as out:
        child = subprocess.Popen(
            arguments, cwd=folder, stdout=subprocess.DEVNULL, stderr=out, env=os.environ | dict(environ or {})
        )
    try:
        yield child
    finally:
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


class Served:
    """A gateway in a process of its own, that is ready; `root` is its address, `url` that of its API."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process, self._log = process, log
        self.port = int(self.wait_for(r"ready on http://127\.0\.0\.1:(\d+)")[1])
        self.root = f"http://127.0.0.1:{self.port}"
        self.url = self.root + "/v1"

    @property
    def log(self) -> str:
        return self._log.read_text()

    def wait_for(self, pattern: str, seconds: float = 60.0) -> re.Match[str]:
        """Where the log has the pattern, once it has; an error if that does not come."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.process.poll() is None:
            if found := re.search(pattern, self.log):
                return found
            time.sleep(0.02)
        raise AssertionError(f"{pattern!r} did not come up in:\n{self.log}")

    def get(self, path: str) -> str:
        """The text that the gateway answers at a path with 200."""
        status, text = self._ask("GET", path)
        assert status == 200, text
        return text

    def chat(self, id_: str = "", *, model: str = "test", text: str = "hi", key: str = "", **fields: Any) -> int:
        """One chat completion with this request id, `fields` go into its body; its status."""
        body = {"model": model, "messages": [{"role": "user", "content": text}], **fields}
        headers = {"content-type": "application/json"}
        headers |= {"x-request-id": id_} if id_ else {}
        headers |= {"authorization": f"Bearer {key}"} if key else {}
        return self._ask("POST", "/v1/chat/completions", json.dumps(body), headers)[0]

    def _ask(
        self, method: str, path: str, body: str | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, str]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()


@contextmanager
def serving(
    config: str | Mapping[str, Any], folder: Path, *arguments: str, port: int = 0, **environ: str
) -> Iterator[Served]:
    """`junctor serve` with this configuration (YAML, or its tree) until the block ends.

    Its files are in the folder, the configuration as `config.yaml`; `arguments` are added to the command.
    """
    file, log = folder / "config.yaml", folder / "log.txt"
    file.write_text(config if isinstance(config, str) else json.dumps(config))
    command = [sys.executable, "-m", "junctor", "serve", "-c", str(file), "--port", str(port), *arguments]
    with process(command, folder, log=log, environ={"XDG_STATE_HOME": str(folder), **environ}) as child:
        yield Served(child, log)


@pytest.fixture
def prefix() -> str:
    """Begins this test's keys in a shared store."""
    return f"test-{uuid.uuid4().hex[:12]}:"


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis: JUNCTOR_TEST_REDIS, this machine's, or one started from the binary. Use a prefix of your own."""
    url = os.environ.get("JUNCTOR_TEST_REDIS")
    if url or wait_for_port(6379, 0.2):
        yield url or "redis://127.0.0.1:6379/0"
        return
    binary = shutil.which("redis-server")
    require(binary, "no Redis at 127.0.0.1:6379 and no redis-server to start one (install redis-server)")
    port = free_port()
    arguments = [str(binary), "--port", str(port), "--save", "", "--appendonly", "no"]
    with process(arguments, tmp_path_factory.mktemp("redis")):
        require(wait_for_port(port), f"{binary} did not start")
        yield f"redis://127.0.0.1:{port}/0"


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A PostgreSQL database of this run's own: on JUNCTOR_TEST_POSTGRES, this machine's server, or one started here."""
    server = os.environ.get("JUNCTOR_TEST_POSTGRES") or "postgresql://postgres@127.0.0.1:5432/postgres"
    if _reachable(server):
        with _database(server) as url:
            yield url
        return
    binaries = _postgres_binaries()
    require(binaries, "no PostgreSQL that lets `postgres` in at 127.0.0.1:5432, and none to start (install postgresql)")
    with _postgres(Path(str(binaries)), tmp_path_factory.mktemp("postgres")) as server, _database(server) as url:
        yield url


def _psql(server: str, command: str) -> subprocess.CompletedProcess[bytes]:
    arguments = [shutil.which("psql") or "psql", "-w", "-q", "-d", server, "-c", command]
    return subprocess.run(arguments, capture_output=True, check=False)


def _reachable(server: str) -> bool:
    return shutil.which("psql") is not None and _psql(server, "select 1").returncode == 0


@contextmanager
def _database(server: str) -> Iterator[str]:
    name = f"junctor_{uuid.uuid4().hex[:12]}"
    _psql(server, f"create database {name}").check_returncode()
    parts = urllib.parse.urlsplit(server)
    try:
        yield parts._replace(path=f"/{name}").geturl()
    finally:
        _psql(server, f"drop database if exists {name} with (force)")


def _postgres_binaries() -> Path | None:
    """The folder of `initdb` and `postgres`, which Debian keeps off the PATH."""
    found = shutil.which("initdb")
    if found is not None:
        return Path(found).parent
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return places[-1].parent if places else None


@contextmanager
def _postgres(binaries: Path, folder: Path) -> Iterator[str]:
    """A server of this run's own. PostgreSQL does not run as root: there the user `postgres` runs it."""
    port, data, run = free_port(), folder / "data", []
    if os.geteuid() == 0:
        run = ["runuser", "-u", "postgres", "--"]
        for each in (folder, *folder.parents[:2]):
            each.chmod(0o755)
        shutil.chown(folder, "postgres")
    init = [*run, str(binaries / "initdb"), "-D", str(data), "-U", "postgres", "--auth=trust"]
    subprocess.run(init, check=True, capture_output=True, cwd=folder)
    serve = [*run, str(binaries / "postgres"), "-D", str(data), "-p", str(port), "-k", str(folder), "-h", "127.0.0.1"]
    with process(serve, folder):
        require(wait_for_port(port, 20), f"{binaries / 'postgres'} did not start")
        yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
