"""A component in a process, as KFP's launcher starts it: the released command, with its input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from florence_jobs.pipelines.compiling import COMPILED

PIPELINE = COMPILED / "finetune-and-promote.yaml"
_INPUT = "{{$}}"
"""Where the launcher puts the executor's input."""


class Component:
    """A component of a released pipeline.

    Args:
        name: as in the pipeline's YAML.
        folder: where its outputs go.
    """

    def __init__(self, name: str, folder: Path) -> None:
        spec = next(yaml.safe_load_all(PIPELINE.read_text(encoding="utf-8")))
        self._component = spec["components"][f"comp-{name}"]
        self._container = spec["deploymentSpec"]["executors"][f"exec-{name}"]["container"]
        self._folder = folder

    @contextmanager
    def started(
        self, parameters: Mapping[str, Any], environment: Mapping[str, str]
    ) -> Iterator[subprocess.Popen[str]]:
        """Its process, in a group of its own; stdout and stderr are one."""
        words = [*self._container["command"], *self._container["args"]]
        process = subprocess.Popen(
            [json.dumps(self._input(parameters)) if word == _INPUT else word for word in words],
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={
                **os.environ,
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
                "AWS_EC2_METADATA_DISABLED": "true",
                **environment,
            },
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait(60)

    def parameters(self) -> dict[str, Any]:
        """What it gave to the next steps."""
        given: dict[str, Any] = self._told()["parameterValues"]
        return given

    def artifact(self, name: str) -> Path:
        """A file that it wrote for KFP's pages."""
        return self._folder / name

    def metadata(self, name: str) -> dict[str, Any]:
        """What KFP keeps of an artifact beside its file."""
        (artifact,) = self._told()["artifacts"][name]["artifacts"]
        return {**artifact["metadata"], "uri": artifact["uri"]}

    def _told(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads((self._folder / "outputs.json").read_text("utf-8"))
        return told

    def _input(self, parameters: Mapping[str, Any]) -> dict[str, Any]:
        outputs = self._component["outputDefinitions"]
        given = {
            name: each["defaultValue"]
            for name, each in self._component["inputDefinitions"]["parameters"].items()
            if "defaultValue" in each
        }
        return {
            "inputs": {"parameterValues": {**given, **parameters}},
            "outputs": {
                "outputFile": str(self._folder / "outputs.json"),
                "parameters": {
                    name: {"outputFile": str(self._folder / "parameters" / name)}
                    for name in outputs.get("parameters", ())
                },
                "artifacts": {
                    name: {
                        "artifacts": [
                            {
                                "name": name,
                                "uri": str(self._folder / name),
                                "type": each["artifactType"],
                                "metadata": {},
                            }
                        ]
                    }
                    for name, each in outputs.get("artifacts", {}).items()
                },
            },
        }


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """What the process has said up to a line with a text in it; fails where that never comes."""
    assert process.stdout is not None
    said = ""
    for line in process.stdout:
        said += line
        if text in line:
            return said
    raise AssertionError(f"the step ended without '{text}':\n{said}")
