"""The tour in the documentation, run as it stands: each command of the page prints what the page says."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from junctor.testing import free_port

DOCS = Path(__file__).parent.parent / "docs"
STEP = re.compile(r"^```sh\n(.*?)^```\n```text\n(.*?)^```$", re.MULTILINE | re.DOTALL)
MARK = "== the end of step"
LONGEST = 110


@pytest.fixture(scope="module")
def said(tmp_path_factory):
    """What each step printed, with the page's own ports again; run in one shell, on free ports, and ended with it."""
    folder = tmp_path_factory.mktemp("tour")
    shutil.copytree(DOCS, folder / "docs", ignore=shutil.ignore_patterns("*.png", "__pycache__"))
    ports = {"4000": str(free_port()), "9001": str(free_port()), "9002": str(free_port())}
    for path in [*(folder / "docs" / "tour").iterdir(), folder / "docs" / "tour.md"]:
        path.write_text(re.sub("|".join(ports), lambda found: ports[found[0]], path.read_text()))
    config = folder / "docs" / "tour" / "config.yaml"
    config.write_text(f"server: {{port: {ports['4000']}}}\n" + config.read_text())
    steps = [step for step, _ in STEP.findall((folder / "docs" / "tour.md").read_text())]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path}
    script = "".join(f"{step}echo '{MARK}'\n" for step in steps)
    (folder / "tour.sh").write_text(script)
    with (folder / "said").open("w") as out, (folder / "errors").open("w") as errors:
        shell = subprocess.Popen(
            ["bash", "tour.sh"], cwd=folder, env=environment, stdout=out, stderr=errors, start_new_session=True
        )
        try:
            shell.wait(LONGEST)
        finally:
            os.killpg(shell.pid, signal.SIGTERM)
            shell.wait(10)
    printed = (folder / "said").read_text()
    logs = [(folder / name).read_text() for name in ("errors", "gateway.log")]
    assert printed.count(MARK) == len(steps), "\n".join([printed, *logs])
    return printed.split(f"{MARK}\n")


@pytest.mark.parametrize("number", range(len(STEP.findall((DOCS / "tour.md").read_text()))))
def test_a_step_prints_what_the_page_says(said, number):
    _, page = STEP.findall((DOCS / "tour.md").read_text())[number]
    pattern = re.escape(page.strip()).replace("…", ".*")
    assert re.fullmatch(pattern, said[number].strip()), f"the page:\n{page}\nprinted:\n{said[number]}"
