"""The real process: signals, reload, workers, and the command line."""

import http.client
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from junctor import services

CONFIG = """
server: {{port: 0, shutdown_grace: 5s}}
models:
  - name: {name}
    targets: [{{target: openai/gpt-4o-mini, base_url: "http://127.0.0.1:9/v1", api_key: sk-provider}}]
plugins: [relay]
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.format(name="first"))
    return path


def serving(file, *arguments, **environ):
    return services.serving(file.read_text(), file.parent, *arguments, **environ)


def run(*arguments, cwd=None):
    return subprocess.run([sys.executable, "-m", "junctor", *arguments], capture_output=True, text=True, cwd=cwd)


def test_serves_and_ends_with_0_at_sigterm(file):
    with serving(file) as server:
        assert "first" in server.get("/v1/models")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0


def test_a_connection_is_kept_for_longer_than_clients_keep_it(file):
    """httpx lets go after 5 s: a server that does so as well may reset the request that was just sent."""
    with serving(file) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        connection.connect()
        connection.auto_open = False  # no second connection behind our back
        for pause in (6, 0):
            connection.request("GET", "/v1/models")
            assert b"first" in connection.getresponse().read()
            time.sleep(pause)
        connection.close()


def test_an_option_beats_the_environment_and_the_file(file):
    with serving(file, JUNCTOR_SERVER__PORT="1") as server:  # it is given --port
        assert "first" in server.get("/v1/models")


def test_sighup_reads_the_file_again_and_a_bad_file_changes_nothing(file):
    with serving(file) as server:
        server.get("/v1/models")
        file.write_text(CONFIG.format(name="second"))
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("was reloaded")
        assert "second" in server.get("/v1/models")
        file.write_text("models: [")
        server.process.send_signal(signal.SIGHUP)
        server.wait_for("was not reloaded")
        assert "second" in server.get("/v1/models")


def test_the_command_reload_checks_first_and_then_tells_the_process(file, tmp_path):
    pid_file = tmp_path / "pid"
    with serving(file, "--pid-file", str(pid_file)) as server:
        server.get("/health/ready")
        file.write_text("plugins: [nope]")
        assert run("reload", "-c", str(file), "--pid-file", str(pid_file)).returncode == 1
        file.write_text(CONFIG.format(name="third"))
        assert run("reload", "-c", str(file), "--pid-file", str(pid_file)).returncode == 0
        server.wait_for("was reloaded")
        assert "third" in server.get("/v1/models")


def test_a_crashed_worker_is_replaced_and_all_end_together(file, redis_url):
    with serving(file, "--workers", "2", JUNCTOR_STATE__URL=redis_url) as server:
        server.wait_for(r"(?s)ready on.*ready on")
        children = subprocess.check_output(["pgrep", "-P", str(server.process.pid)], text=True).split()
        os.kill(int(children[0]), signal.SIGKILL)
        server.wait_for(r"(?s)ready on.*ready on.*ready on")
        assert "first" in server.get("/v1/models")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(10) == 0
    assert subprocess.run(["pgrep", "-P", children[1]], capture_output=True).returncode == 1


def test_a_port_that_is_taken_is_told_with_the_remedy(file):
    with serving(file) as server:
        second = run("serve", "-c", str(file), "--port", str(server.port))
    assert second.returncode == 1
    assert "Address already in use; choose another with --port" in second.stderr


def test_check_tells_every_mistake_and_exits_with_1(file):
    file.write_text("server: {prt: 1}\nmodels: [{name: a, targets: [{target: x/y}]}]\nplugins: [realy]")
    result = run("check", "-c", str(file))
    assert result.returncode == 1
    assert len(result.stderr.strip().splitlines()) == 2
    assert "did you mean 'port'" in result.stderr
    assert "did you mean 'relay'" in result.stderr


def test_check_is_content_with_a_good_file(file):
    result = run("check", "-c", str(file))
    assert (result.returncode, result.stderr) == (0, "")
    assert "good (1 models, 1 plugins)" in result.stdout


def test_plugins_lists_versions_and_the_order_of_hooks(file):
    result = run("plugins", "-c", str(file))
    assert re.search(r"relay\s+enabled\s+junctor-relay 0\.", result.stdout)
    assert re.search(r"call\s+relay", result.stdout)
    assert re.search(r"route\s+file_order", result.stdout)


@pytest.mark.parametrize("command", ["serve", "check", "plugins", "reload", "assets"])
def test_every_command_explains_itself(command):
    result = run(command, "--help")
    assert result.returncode == 0
    assert "usage: junctor" in result.stdout


def test_a_second_signal_ends_at_once(file):
    with serving(file) as server:
        server.get("/health/ready")
        server.process.send_signal(signal.SIGTERM)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(5) in (0, 1)


def test_importing_junctor_imports_no_provider_library():
    heavy = ("litellm", "redis", "httpx", "aiohttp", "openai")
    code = f"import sys, junctor; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
