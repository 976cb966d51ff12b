"""A stage's metrics and pictures as TensorBoard logs, among the stage's artifacts."""

from __future__ import annotations

import io
import logging
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from florence.errors import FlorenceError
from florence.storage import FolderStorage, Storage

log = logging.getLogger(__name__)

FOLDER = "tensorboard"


class TensorBoardRecorder:
    """Writes event files under ``tensorboard/``: at once into a folder, to S3 when it is closed.

    One process writes a file of its own, so attempts never disturb each other.
    """

    run_id: str | None = None

    def __init__(self, output: Storage) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._output = output
        self._step = 0
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        if isinstance(output, FolderStorage):
            folder = output.folder / FOLDER
        else:
            self._temporary = tempfile.TemporaryDirectory(prefix="florence-tensorboard-")
            folder = Path(self._temporary.name)
        self._folder = folder
        self._writer: Any = SummaryWriter(str(folder), flush_secs=30)
        self._working = True

    def parameters(self, parameters: Mapping[str, Any]) -> None:
        """Settings as a text."""
        lines = "\n".join(f"    {name}: {value}" for name, value in sorted(parameters.items()))
        self._write(lambda writer: writer.add_text("parameters", lines, self._step))

    def dataset(self, uri: str, fingerprint: str, samples: int, context: str) -> None:
        """Which data was read, as a text."""
        text = f"{samples} samples of {uri} ({fingerprint})"
        self._write(lambda writer: writer.add_text(f"data/{context}", text, self._step))

    def metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """A point of each curve; values that are not finite have none."""
        self._step = step
        finite = {name: value for name, value in metrics.items() if math.isfinite(value)}

        def write(writer: Any) -> None:
            for name, value in finite.items():
                writer.add_scalar(name, value, step)

        self._write(write)

    def table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Tables are in MLflow and in the artifacts."""

    def picture(self, name: str, png: bytes) -> None:
        """A picture."""
        try:
            pixels = _pixels(png)
        except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises
            log.warning("%s is not among the TensorBoard logs: %s", name, error)
            return
        self._write(lambda writer: writer.add_image(name, pixels, self._step, dataformats="HWC"))

    def checkpoint(self, uri: str, step: int, metrics: Mapping[str, float]) -> None:
        """What was measured for a commit."""
        self.metrics(step, metrics)

    def model(self, files: Mapping[str, bytes], uri: str) -> None:
        """Models are in the artifacts."""

    def evaluated(self, uri: str, metrics: Mapping[str, float]) -> None:
        """Metrics are recorded anyway."""

    def close(self, status: str, problem: str | None = None) -> None:
        """Write what is left; copy it to S3 where the artifacts are there."""
        # Also after a problem: what was written before it is still in the writer's queue.
        self._try(lambda writer: writer.close())
        if self._temporary is None:
            return
        try:
            for file in self._folder.iterdir():
                self._output.write(f"{FOLDER}/{file.name}", file)
        except FlorenceError as error:
            log.warning("The TensorBoard logs are not in the artifacts: %s", error)
        self._temporary.cleanup()

    def _write(self, write: Callable[[Any], object]) -> None:
        """A stage never fails because of its curves: the first problem ends them."""
        if self._working:
            self._try(write)

    def _try(self, write: Callable[[Any], object]) -> None:
        try:
            write(self._writer)
        except Exception as error:
            log.warning("TensorBoard logs stopped: %s", error)
            self._working = False


def _pixels(png: bytes) -> Any:
    import numpy as np
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
