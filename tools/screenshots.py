"""Take pictures of what `florencectl ui` shows after a run, for a person to look at, and for docs.

python -m tools.screenshots OUT            runs the sample in a home folder of its own first
python -m tools.screenshots OUT --home F   of the runs of the sample that are in F

The picture `report` is of the page that Kubeflow's pages show of a pipeline's step: its report of
the newest job in that folder.

It needs a Chromium or Chrome on the path, which it starts without a window. Every page is waited
for until it shows what it is for.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import io
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from PIL import Image

from florence_jobs.local import Records
from florence_jobs.pipelines.results import html_report
from florence_jobs.pipelines.running import results_here
from florencectl.local_server import HOST, answer

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PICTURE = "pictures/digits/confusion.png"
SAMPLE = "jobs/samples/digits.yaml"
KIND = "workflowType=machine_learning"
"""Without it MLflow shows its pages for chat bots."""
_SECONDS_TO_START = 180.0
_SECONDS_TO_DRAW = 60.0
_SECONDS_TO_SETTLE = 3.0

# What a user does once: close the assistant. Charts show their tools under a pointer only, and
# nobody's home folder belongs into a picture.
_TIDY = """
document.querySelector('[data-component-id="mlflow.assistant.chat_panel.close"]')?.click();
document.head.append(Object.assign(document.createElement("style"), {
  textContent: ".modebar { display: none }"
}));
for (const part of document.querySelectorAll("div, span")) {
  if (part.innerText?.startsWith("Path: ")) part.style.visibility = "hidden";
}
"""
# Unfold the job, so that its stages are seen.
_UNFOLD = """
const rows = document.querySelectorAll('[role=gridcell][col-id*="Run Name"] button');
rows.forEach(button => button.click());
"""
REPORT = "report"
_IS_LOADING = "!!document.querySelector('.ant-spin, [role=progressbar], [aria-busy=true]')"


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """A page to take a picture of.

    Attributes:
        name: of the file.
        path: below the server.
        shows: words that are there once it is drawn.
        act: what a user would press, in JavaScript.
        size: of the window in pixels.
    """

    name: str
    path: str
    shows: str
    act: str = ""
    size: tuple[int, int] = (1280, 800)


def pages(server: str) -> list[Page]:
    """The pages of the newest job: its table, charts, one stage's run, its pictures, its model."""
    api = f"{server}/api/2.0/mlflow"
    found = answer(f"{api}/experiments/search", {"max_results": 100})
    every = [experiment["experiment_id"] for experiment in found["experiments"]]
    newest = {"experiment_ids": every, "order_by": ["attributes.start_time DESC"]}
    runs = answer(f"{api}/runs/search", newest)["runs"]
    tags = {run["info"]["run_id"]: _tags(run) for run in runs}
    # The first stage of the job, whose curves begin at the beginning.
    trained = [one for one, named in tags.items() if named.get("florence.kind") == "pretrain"][-1]
    measured = next(one for one, named in tags.items() if named.get("florence.kind") == "evaluate")
    experiment = next(r["info"]["experiment_id"] for r in runs if r["info"]["run_id"] == trained)
    models = answer(f"{api}/logged-models/search", {"experiment_ids": [experiment]})["models"]
    model = next(m["info"]["model_id"] for m in models if m["info"]["source_run_id"] == trained)
    where = f"#/experiments/{experiment}"
    run, result = f"{where}/runs/{trained}", f"{where}/runs/{measured}"
    charts = f"{where}/runs?{KIND}&compareRunsMode=CHART"
    return [
        Page(name="runs", path=f"{where}/runs?{KIND}", shows="matching run", act=_UNFOLD),
        Page(name="charts", path=charts, shows="Add chart", act=_UNFOLD),
        Page(name="stage", path=f"{run}?{KIND}", shows="About this run"),
        Page(name="stage-charts", path=f"{run}/model-metrics?{KIND}", shows="Add chart"),
        Page(name="evaluation", path=f"{result}?{KIND}", shows="About this run"),
        Page(
            name="pictures",
            path=f"{result}/artifacts/{PICTURE}?{KIND}",
            shows="confusion.png",
            size=(1280, 930),
        ),
        Page(name="models", path=f"{where}/models?{KIND}", shows="digits"),
        Page(name="model", path=f"{where}/models/{model}?{KIND}", shows="About this logged model"),
    ]


def report(home: Path) -> tuple[str, Page]:
    """The report of the newest job in a home folder, as HTML, and how its picture is taken."""
    newest = max((home / "jobs").glob("*/*/job.json"), key=lambda file: file.stat().st_mtime)
    namespace, name = newest.parts[-3:-1]
    records = Records(home)
    job = records.load(namespace, name)
    assert job is not None
    page = Page(name=REPORT, path=f"{REPORT}.html", shows=name, size=(900, 1150))
    # Nobody's home folder belongs into a picture.
    return html_report(results_here(job, records)).replace(str(home), "~/.florence"), page


def _tags(run: Mapping[str, Mapping[str, Sequence[Mapping[str, str]]]]) -> dict[str, str]:
    return {tag["key"]: tag["value"] for tag in run["data"].get("tags", ())}


def browser_program() -> str:
    """The program.

    Raises:
        SystemExit: there is none.
    """
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise SystemExit(f"no browser: install one of {', '.join(BROWSERS)}")
    return found


class Browser:
    """A browser without a window, told what to do over its debugging protocol."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket, self._numbers = socket, itertools.count(1)

    async def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command; what it returns."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        while True:
            told = await self._socket.receive_json(timeout=_SECONDS_TO_DRAW)
            if told.get("id") == number:
                if "error" in told:
                    raise SystemExit(f"{method}: {told['error']['message']}")
                result: dict[str, Any] = told["result"]
                return result

    async def value(self, expression: str) -> Any:
        """What a piece of JavaScript says in the page."""
        found = await self.do("Runtime.evaluate", expression=expression, returnByValue=True)
        return found["result"].get("value")

    async def picture(self, server: str, page: Page) -> bytes:
        """A picture of a page, as PNG, once it is drawn.

        Raises:
            SystemExit: it does not show what it is for.
        """
        width, height = page.size
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        await self.do("Emulation.setDeviceMetricsOverride", **size)
        await self.do("Page.navigate", url="about:blank")
        await self.do("Page.navigate", url=f"{server}/{page.path}")
        await self._until(page.shows)
        for done in (_TIDY, page.act):
            await self.value(done)
            await asyncio.sleep(_SECONDS_TO_SETTLE)
        await self._until(page.shows)
        taken = await self.do("Page.captureScreenshot", format="png")
        return base64.b64decode(taken["data"])

    async def _until(self, words: str) -> None:
        """Wait until a page shows these words and nothing that turns."""
        is_there = f"document.body.innerText.includes({json.dumps(words)})"
        deadline = time.monotonic() + _SECONDS_TO_DRAW
        while not await self.value(f"{is_there} && !({_IS_LOADING})"):
            if time.monotonic() > deadline:
                raise SystemExit(f"{await self.value('location.href')}: does not show '{words}'")
            await asyncio.sleep(0.2)


@contextlib.contextmanager
def browsing(program: str) -> Iterator[int]:
    """A browser with nothing in its profile; the port that it takes commands on."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        process = subprocess.Popen(
            [
                *(program, "--headless", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
                # Nobody's settings, no updates and none of their connections.
                *("--disable-background-networking", "--disable-component-update"),
                *("--disable-sync", "--disable-quic", "--no-proxy-server"),
                *(("--no-sandbox",) if os.geteuid() == 0 else ()),
                *(f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            said = Path(profile) / "DevToolsActivePort"
            deadline = time.monotonic() + _SECONDS_TO_START
            while not (said.is_file() and "\n" in said.read_text()):
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit(f"{program} did not start")
                time.sleep(0.1)
            yield int(said.read_text().split()[0])
        finally:
            process.terminate()
            process.wait(60)


async def pictures(port: int, server: str, wanted: Sequence[Page]) -> dict[str, bytes]:
    """Pictures of pages by their names, from the browser that listens on a port."""
    async with aiohttp.ClientSession() as session:
        async with session.get(f"http://{HOST}:{port}/json/list") as listed:
            tabs = await listed.json()
        (tab, *_) = (one["webSocketDebuggerUrl"] for one in tabs if one["type"] == "page")
        async with session.ws_connect(tab, max_msg_size=0) as connected:
            browser = Browser(connected)
            return {page.name: await browser.picture(server, page) for page in wanted}


@contextlib.contextmanager
def served(home: Path) -> Iterator[str]:
    """The address of `florencectl ui` over the runs in a home folder."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "florencectl.main", "ui", "--no-browser", "--port", str(port)]
    process = subprocess.Popen(
        command,
        env={**os.environ, "FLORENCE_HOME": str(home)},
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        deadline = time.monotonic() + _SECONDS_TO_START
        for line in process.stderr:
            print(line, end="", flush=True)
            if "MLflow on " in line or time.monotonic() > deadline:
                break
        else:
            raise SystemExit("florencectl ui did not start")
        yield f"http://{HOST}:{port}"
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def smaller(png: bytes) -> bytes:
    """The picture with a palette, which is enough for pages and charts."""
    buffer = io.BytesIO()
    picture = Image.open(io.BytesIO(png)).convert("RGB")
    picture.quantize(256, dither=Image.Dither.NONE).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def main(arguments: Sequence[str]) -> int:
    """Take every picture."""
    parser = argparse.ArgumentParser(prog="python -m tools.screenshots")
    parser.add_argument("out", type=Path, help="folder for the pictures")
    parser.add_argument("--home", type=Path, help="home folder with runs")
    parser.add_argument("--only", nargs="*", metavar="NAME", help="names of pictures")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    program = browser_program()
    only = set(options.only or ())
    with contextlib.ExitStack() as stack:
        home = options.home
        if home is None:
            home = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            command = [sys.executable, "-m", "florencectl.main", "submit", "-f", SAMPLE, "--local"]
            subprocess.run(command, env={**os.environ, "FLORENCE_HOME": str(home)}, check=True)
        port = stack.enter_context(browsing(program))
        taken: dict[str, bytes] = {}
        if not only or REPORT in only:
            text, page = report(home)
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            (folder / page.path).write_text(text, encoding="utf-8")
            taken |= asyncio.run(pictures(port, folder.as_uri(), [page]))
        if only != {REPORT}:
            server = stack.enter_context(served(home))
            wanted = [page for page in pages(server) if not only or page.name in only]
            taken |= asyncio.run(pictures(port, server, wanted))
        for name, picture in taken.items():
            target = options.out / f"{name}.png"
            target.write_bytes(smaller(picture))
            print(f"{target}: {target.stat().st_size / 1e3:.0f} kB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
