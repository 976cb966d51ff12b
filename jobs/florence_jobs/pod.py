"""What runs in a pod: start the stage's processes, keep their log, and leave last words.

python -m florence_jobs.pod /etc/florence/stage.json

The processes of the stage are children of this one. Their log goes on to its own output; the end
of it is kept in the artifacts every few seconds, so that it outlives the pod however the
pod ends. The termination message tells the operator what happened (``api/termination.py``).
"""

from __future__ import annotations

import json
import logging
import math
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from florence.errors import ConfigurationError, FlorenceError
from florence.storage import open_storage
from florence_jobs.evidence.keeper import EvidenceKeeper, Worker
from florence_jobs.log_tail import LOST_PEERS, LogTail, failure_line, last_lines
from florence_jobs.plan_file import PROGRESS_FILE, read_plan
from florence_jobs.progress import Heartbeat
from florence_operator.api.ranks import RankGroup
from florence_operator.api.stage import StagePlan
from florence_operator.api.termination import Termination

log = logging.getLogger("florence")

SECONDS_BETWEEN_UPLOADS = 15.0
PROGRESS = "progress.json"
_LONGEST_LAST_UPLOAD = 10.0
_LONGEST_DRAIN = 2.0
_POLL_SECONDS = 0.2
_LAST_LINES = 20
_QUIET = {"GIT_PYTHON_REFRESH": "quiet"}
"""MLflow brings GitPython, which fills the last lines with advice where there is no git."""


def main(arguments: list[str], environment: Mapping[str, str]) -> int:
    """Run the stage of a plan file and return the exit code of the process that failed first."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("botocore").setLevel(logging.WARNING)
    message = Path(environment.get("TERMINATION_LOG", "/dev/termination-log"))
    try:
        plan = read_plan(Path(arguments[0]))
    except ConfigurationError as error:
        log.error("%s", error)
        leave(message, Termination(failure=str(error)))
        return error.exit_code
    index = int(environment.get("PET_NODE_RANK", "0"))
    tail = LogTail()
    keeper = LogKeeper(plan, index, tail)
    home = Path(environment.get("FLORENCE_HOME", "/tmp"))
    home.mkdir(parents=True, exist_ok=True)
    progress = home / PROGRESS
    heartbeat = Heartbeat(plan.progress, plan, progress) if plan.progress and index == 0 else None
    evidence = EvidenceKeeper.within(
        plan.grace_seconds, worker(plan, index, tail, home), environment
    )
    try:
        ended = run(command(arguments[0], plan, environment), tail, progress, evidence)
        ranks = evidence.close()
        # Before the log, which takes a while where its storage hangs: the operator reads this.
        leave(message, last_words(plan, index, ended, tail.read(), progress, keeper.uri, ranks))
    finally:
        if heartbeat:
            heartbeat.close()
        keeper.close()
    return ended.code


def worker(plan: StagePlan, index: int, tail: LogTail, home: Path) -> Worker:
    """The pod's ranks, and where evidence of what they do goes: beside the kept log."""
    return Worker(
        who=f"worker {index} of stage '{plan.stage}', attempt {plan.attempt}",
        index=index,
        folder=home / "evidence",
        storage=lambda: open_storage(plan.output, plan.storage),
        prefix=f"{log_folder(plan)}/",
        tail=tail.read,
    )


def log_folder(plan: StagePlan) -> str:
    """Where an attempt's logs are kept among the stage's artifacts."""
    return f"logs/attempt-{plan.attempt}"


def command(plan_file: str, plan: StagePlan, environment: Mapping[str, str]) -> list[str]:
    """The launcher's command line; its ``PET_*`` variables say which node of how many this is."""
    alone = [] if environment.get("PET_NNODES", "1") != "1" else ["--standalone"]
    return [
        *(sys.executable, "-m", "florence_jobs.launch", *alone),
        *(f"--local-addr={environment.get('POD_IP', '127.0.0.1')}", "--max-restarts=0"),
        f"--shutdown-timeout={max(1, int(plan.grace_seconds))}",
        *("-m", "florence_jobs.main", plan_file),
    ]


@dataclass(frozen=True, slots=True)
class Ended:
    """How the processes of the stage ended."""

    code: int
    asked_to_stop: bool
    """Whether this pod was asked to stop before they had."""


def run(
    arguments: list[str], tail: LogTail, progress: Path, evidence: EvidenceKeeper | None = None
) -> Ended:
    """Run the processes to their end; SIGTERM and SIGINT are passed on to them."""
    asked: list[float] = []
    told = {PROGRESS_FILE: str(progress), **(evidence.environment if evidence else {})}
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**_QUIET, **os.environ, **told},
    )

    def pass_on(*_: object) -> None:
        asked.append(time.monotonic())
        process.send_signal(signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)

    def look() -> None:
        if evidence is not None:
            evidence.look(process.pid, asked[0] if asked else None)

    _copy(process, tail, look)
    code = process.wait()
    return Ended(code if code >= 0 else 128 - code, bool(asked))


def _copy(process: subprocess.Popen[bytes], tail: LogTail, look: Callable[[], None]) -> None:
    """Pass the log on and remember its end, until the process has ended and nothing is left.

    A process of its own that it left behind may hold the log open for ever; what that one has to
    say is waited for no longer than a moment, for the pod holds its GPUs until this ends.
    ``look`` is called again and again meanwhile.
    """
    assert process.stdout is not None
    source, until = process.stdout.fileno(), math.inf
    with selectors.DefaultSelector() as selector:
        selector.register(source, selectors.EVENT_READ)
        while time.monotonic() < until:
            look()
            if until == math.inf and process.poll() is not None:
                until = time.monotonic() + _LONGEST_DRAIN
            if not selector.select(timeout=_POLL_SECONDS):
                continue
            data = os.read(source, 65536)
            if not data:
                return
            tail.add(data)
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
    log.warning("A process that the stage left behind keeps its log open: it is left alone")


class LogKeeper:
    """Stores the end of a pod's log among the stage's artifacts, again and again, in a thread."""

    def __init__(self, plan: StagePlan, index: int, tail: LogTail) -> None:
        self._key = f"{log_folder(plan)}/worker-{index}.log"
        self._tail = tail
        self._stored = b""
        self._closed = threading.Event()
        self._failing = False
        self._plan = plan
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    @property
    def uri(self) -> str:
        """The folder of the attempt's logs."""
        return f"{self._plan.output}/{log_folder(self._plan)}"

    def close(self) -> None:
        """Store what is left; waits for a few seconds at most."""
        self._closed.set()
        self._thread.join(timeout=_LONGEST_LAST_UPLOAD)

    def _run(self) -> None:
        last = False
        while not last:
            last = self._closed.wait(timeout=SECONDS_BETWEEN_UPLOADS)
            data = self._tail.read()
            if data != self._stored:
                self._store(data)

    def _store(self, data: bytes) -> None:
        try:
            open_storage(self._plan.output, self._plan.storage).write(self._key, data)
        except (FlorenceError, OSError) as error:
            if not self._failing:
                log.warning("The log cannot be kept in the artifacts: %s", error)
            self._failing = True
        else:
            self._stored, self._failing = data, False


def last_words(
    plan: StagePlan,
    index: int,
    ended: Ended,
    tail: bytes,
    progress: Path,
    logs: str,
    ranks: tuple[RankGroup, ...] = (),
) -> Termination:
    """How the pod's part ended; worker 0's also tells the results."""
    code = ended.code
    failure = failure_line(tail, code) if code else None
    told = _document(progress.read_bytes()) if progress.is_file() else {}
    results = _results(plan) if code == 0 and index == 0 else {}
    return Termination(
        failure=failure,
        lost_peer=bool(failure and failure.startswith(LOST_PEERS)),
        asked_to_stop=ended.asked_to_stop if code else None,
        lines=last_lines(tail, _LAST_LINES) if code else (),
        metrics=results.get("metrics", {}),
        mlflow_run=results.get("mlflowRun"),
        restored_step=told.get("restoredStep"),
        step=told.get("step"),
        checkpoint=told.get("checkpoint"),
        checkpoint_step=told.get("checkpointStep"),
        logs=logs,
        ranks=ranks,
    )


def _results(plan: StagePlan) -> dict[str, Any]:
    try:
        return _document(open_storage(plan.output, plan.storage).read("metrics.json"))
    except FlorenceError as error:
        log.warning("The results cannot be told: %s", error)
        return {}


def _document(text: bytes) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def leave(path: Path, words: Termination) -> None:
    """Write the termination message, where there is a place for it."""
    try:
        path.write_text(words.encode(), encoding="utf-8")
    except OSError as error:
        log.warning("%s cannot be written: %s", path, error.strerror)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
