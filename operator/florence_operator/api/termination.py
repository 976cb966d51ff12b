"""What a pod leaves in its termination message: how its part of an attempt ended.

The kubelet copies the message into the pod's status, so it outlives the container and is read
without access to logs or storage. Kubernetes keeps 4,096 bytes of it.
"""

from __future__ import annotations

from pydantic import ConfigDict, ValidationError

from florence.config.base import Settings, setting
from florence_operator.api.ranks import RankGroup

LARGEST = 4096
_LONGEST_LINE = 500


class Termination(Settings):
    """The last words of a pod."""

    model_config = ConfigDict(extra="ignore")

    failure: str | None = setting(None, description="the line that says why it failed")
    lost_peer: bool = setting(
        False, description="it failed because another pod of the attempt was gone"
    )
    asked_to_stop: bool | None = setting(
        None, description="whether the pod was asked to stop before its program ended"
    )
    lines: tuple[str, ...] = setting((), description="the last lines of its log")
    metrics: dict[str, float] = setting({}, description="results of a finished stage")
    mlflow_run: str | None = setting(None, description="id of the stage's MLflow run")
    restored_step: int | None = setting(
        None, description="step of the checkpoint that it started from", unit="steps"
    )
    step: int | None = setting(None, description="last step that it finished", unit="steps")
    checkpoint: str | None = setting(None, description="newest commit")
    checkpoint_step: int | None = setting(None, description="its step", unit="steps")
    logs: str | None = setting(None, description="URI of the pod's kept log")
    ranks: tuple[RankGroup, ...] = setting(
        (), description="where its ranks were when they did not stop as asked"
    )

    def encode(self, limit: int = LARGEST) -> str:
        """The message as JSON of at most ``limit`` bytes; old log lines go first, then metrics."""
        words = self.model_copy(
            update={
                "failure": self.failure[:_LONGEST_LINE] if self.failure else None,
                "lines": tuple(line[:_LONGEST_LINE] for line in self.lines),
            }
        )
        while True:
            text = words.model_dump_json(by_alias=True, exclude_defaults=True)
            if len(text.encode()) <= limit:
                return text
            if words.lines:
                words = words.model_copy(update={"lines": words.lines[1:]})
            elif words.metrics:
                kept = dict(list(words.metrics.items())[:-1])
                words = words.model_copy(update={"metrics": kept})
            elif words.ranks:
                words = words.model_copy(update={"ranks": words.ranks[:-1]})
            else:
                return Termination(failure=(self.failure or "")[:100] or None).encode()


def last_words(message: str | None) -> Termination:
    """The termination message of a container; text that is not ours counts as log lines."""
    if not message:
        return Termination()
    try:
        return Termination.model_validate_json(message)
    except ValidationError:
        lines = tuple(line for line in message.splitlines() if line.strip())
        return Termination(failure=lines[-1][:_LONGEST_LINE] if lines else None, lines=lines[-20:])
