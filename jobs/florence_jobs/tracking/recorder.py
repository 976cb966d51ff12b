"""What a stage records, on its way to MLflow.

Every method of :class:`Tracker` puts something into a queue and returns. A background thread
imports MLflow, finds or makes the run, and delivers. What cannot be delivered goes to a file and is
delivered when the server is back, in this attempt or the next on this machine. Whatever goes wrong
is one warning line; a stage never fails because of it.
"""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from florence_jobs.registry.registering import registration
from florence_jobs.registry.tags import FINGERPRINT, WEIGHTS_DIGEST, place_of
from florence_jobs.tracking.delivery import Delivery, RunSink, one_line
from florence_jobs.tracking.descriptions import DESCRIPTION, described
from florence_jobs.tracking.events import Event, EventQueue, Spill, flatten, split_finite
from florence_jobs.tracking.mlflow_run import MOST_MODEL_BYTES, PROBLEM, milliseconds
from florence_jobs.tracking.server import redacted

log = logging.getLogger(__name__)

QUEUE_CAPACITY = 20_000
"""Metric events that wait for a server: a day at one logged step every four seconds."""


class Tracker:
    """Rank 0's recorder. No method blocks on a network or raises.

    Args:
        sink: the run.
        spill: where records wait that could not be delivered.
        attempt: of the stage, from 1.
        where: what messages call the server.
        model_name: of the final model in MLflow's pages.
        planned: the settings of a stage that fails before it says which ones it uses.
        experiment: final models are registered as ``<experiment>-<task>``; none: they are not.
        origin: where it is from: tags of the registered version.
        measured: the registered model that the stage measures, where it has one by name.
        description: on the run's page, under what went wrong.
    """

    def __init__(
        self,
        sink: RunSink,
        spill: Spill,
        *,
        attempt: int,
        where: str,
        model_name: str = "model",
        planned: Mapping[str, Any] | None = None,
        experiment: str | None = None,
        origin: Mapping[str, str] | None = None,
        measured: str | None = None,
        description: str = "",
        interval_s: float = 5.0,
        close_timeout_s: float = 60.0,
        capacity: int = QUEUE_CAPACITY,
        sampler: Callable[[], Mapping[str, float]] | None = None,
        sample_every_s: float = 10.0,
        clock_ms: Callable[[], int] = milliseconds,
    ) -> None:
        self._sink = sink
        self._attempt = attempt
        self._model_name = model_name
        self._planned = planned or {}
        self._experiment, self._origin = experiment, origin or {}
        self._measured, self._description = measured, description
        self._dataset: dict[str, str] | None = None
        self._close_timeout = close_timeout_s
        self._clock = clock_ms
        self._step = 0
        self._parameters: dict[str, str] = {}
        self._newest: dict[str, float] = {}
        self._broken: Counter[str] = Counter()
        self._sampler = sampler
        self._sample_every_ms = sample_every_s * 1000
        self._sampled_at = -self._sample_every_ms
        self._queue = EventQueue(capacity)
        self._delivery = Delivery(
            sink, spill, self._queue, where=where, interval_s=interval_s, sample=self._sample
        )

    @property
    def run_id(self) -> str | None:
        """The MLflow run, once the server has answered."""
        return self._sink.run_id

    def parameters(self, parameters: Mapping[str, Any]) -> None:
        """Record settings under dotted names. What a later attempt changes becomes a tag
        ``restart.<attempt>.<name>``, because MLflow's parameters cannot change."""
        values = flatten(parameters)
        self._parameters |= values
        self._put("parameters", attempt=self._attempt, values=values)

    def tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        self._put("tags", values={key: str(value) for key, value in tags.items()})

    def dataset(self, uri: str, fingerprint: str, samples: int, context: str) -> None:
        """Record which data was read, by digest."""
        name = redacted(uri).rstrip("/").rsplit("/", 1)[-1] or uri
        self._dataset = {
            "name": name[:500],
            "digest": fingerprint[:36],
            "uri": redacted(uri),
        }
        self._put(
            "dataset", uri=uri, name=name, fingerprint=fingerprint, samples=samples, context=context
        )

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record values at a step. Values that are not finite are counted in a tag instead."""
        self._step = step
        finite, broken = split_finite(metrics)
        if finite:
            self._newest |= finite
            self._put("metrics", step=step, time=self._clock(), values=finite)
        if broken:
            self._broken.update(broken)
            where = f"in attempt {self._attempt}, last at step {step}"
            texts = {f"nonfinite.{name}": f"{self._broken[name]} {where}" for name in broken}
            self._put("tags", values=texts)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Record rows with the same keys as a table that MLflow's pages show."""
        columns = list(dict.fromkeys(key for row in rows for key in row))
        document = {"columns": columns, "data": [[row.get(c) for c in columns] for row in rows]}
        path, content = f"{_path(name)}.json", json.dumps(document, default=str).encode()
        self._queue.put(Event("artifact", {"table": path}, {path: content}))

    def picture(self, name: str, png: bytes) -> None:
        """Record a PNG under ``pictures/``."""
        self.artifact(f"pictures/{_path(name)}.png", png)

    def artifact(self, path: str, content: bytes) -> None:
        """Record a small file of the run."""
        self._queue.put(Event("artifact", {}, {path: content}))

    def checkpoint(self, uri: str, step: int, metrics: Mapping[str, float]) -> None:
        """Record where the newest commit is, in tags. Only the final model is one of MLflow's."""
        if metrics:
            self.metrics(step, metrics)
        self.tags({"florence.checkpoint": redacted(uri), "florence.checkpointStep": str(step)})

    def model(self, files: Mapping[str, bytes], uri: str) -> None:
        """Record the final model as one that MLflow can serve; a very large one as a link.

        It is registered by the name of its experiment and task, and carries the run's parameters
        and the newest value of each of its metrics.
        """
        registration = self._registration(files, uri)
        digest = registration["tags"].get(WEIGHTS_DIGEST) if registration else None
        data = {
            "name": self._model_name,
            "step": self._step,
            "time": self._clock(),
            "tags": {
                "florence.uri": redacted(uri),
                "florence.attempt": str(self._attempt),
                **({WEIGHTS_DIGEST: digest} if digest else {}),
            },
            "parameters": dict(self._parameters),
            "metrics": dict(self._newest),
            "dataset": self._dataset,
            "registration": registration,
        }
        size = sum(map(len, files.values()))
        if size > MOST_MODEL_BYTES:
            log.warning("The model of %.1f GiB is linked in MLflow, not copied", size / 2**30)
            self._put("linked_model", **data)
        else:
            self._queue.put(Event("model", data, dict(files)))

    def evaluated(self, uri: str, metrics: Mapping[str, float]) -> None:
        """Add what was measured of a model to it, where MLflow knows it."""
        finite, _ = split_finite(metrics)
        self._put(
            "model_metrics",
            uri=redacted(uri),
            reference=self._measured,
            step=self._step,
            time=self._clock(),
            metrics=finite,
        )

    def close(
        self, status: str, problem: str | None = None, *, timeout_s: float | None = None
    ) -> None:
        """Deliver what waits and end the run as FINISHED, FAILED or KILLED; never raises."""
        if self._planned and not self._parameters:
            self.parameters(self._planned)
        if problem is not None:
            problem = f"attempt {self._attempt}: {redacted(problem)}"
            self.tags({PROBLEM: problem, DESCRIPTION: described(self._description, problem)})
        metrics = dict(self._newest)
        self._put("finish", status=status, time=self._clock(), metrics=metrics, problem=problem)
        limit = self._close_timeout if timeout_s is None else timeout_s
        # A stage that ended well has no one waiting to kill it, and its model is being uploaded.
        self._delivery.close(max(limit, 120.0) if status == "FINISHED" and not timeout_s else limit)

    def _registration(self, files: Mapping[str, bytes], uri: str) -> dict[str, Any] | None:
        if self._experiment is None:
            return None
        data = self._dataset or {}
        about = {
            "florence.uri": place_of(uri),
            "florence.attempt": str(self._attempt),
            **({"florence.data": data["uri"]} if "uri" in data else {}),
            **({FINGERPRINT: data["digest"]} if "digest" in data else {}),
        }
        return registration(self._experiment, files, {**self._origin, **about})

    def _put(self, kind: str, **data: Any) -> None:
        self._queue.put(Event(kind, data))

    def _sample(self) -> Event | None:
        now = self._clock()
        if self._sampler is None or now - self._sampled_at < self._sample_every_ms:
            return None
        self._sampled_at = now
        try:
            values, _ = split_finite(self._sampler())
        except Exception as error:
            log.warning("System metrics stopped: %s", one_line(error))
            self._sampler = None
            return None
        return Event("metrics", {"step": self._step, "time": now, "values": values})


def _path(name: str) -> str:
    """A name as a relative path that stays inside its folder."""
    parts = [re.sub(r"[^\w.-]", "_", part) for part in name.split("/")]
    return "/".join(part for part in parts if part.strip(".")) or "unnamed"
