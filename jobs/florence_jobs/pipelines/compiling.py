"""Pipelines as the YAML that KFP's server takes."""

from __future__ import annotations

import tempfile
from pathlib import Path

from florence.errors import ConfigurationError
from florence_jobs.pipelines.components import IMAGE
from florence_jobs.pipelines.definitions import PIPELINES
from florence_operator.api.generated import write_or_check

COMPILED = Path(__file__).parent / "compiled"
"""The pipelines as they are released."""


def compiled(name: str, image: str | None = None) -> str:
    """A pipeline's YAML.

    Args:
        image: of the steps; default: the released one.

    Raises:
        ConfigurationError: there is no pipeline of that name.
    """
    from kfp import compiler

    if name not in PIPELINES:
        raise ConfigurationError(f"no pipeline '{name}': use one of {', '.join(PIPELINES)}")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        compiler.Compiler().compile(PIPELINES[name](), str(path))
        text = path.read_text(encoding="utf-8")
    return text.replace(f"image: {IMAGE}", f"image: {image}") if image else text


def write_compiled(folder: Path, *, check: bool) -> int:
    """Write every pipeline into a folder, or say which are stale; 1 when one is."""
    files = {folder / f"{name}.yaml": compiled(name) for name in PIPELINES}
    return write_or_check(files, check=check)
