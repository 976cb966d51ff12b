"""METEOR and SPICE by their authors' Java programs, where Java and the programs are.

Both get captions as the COCO caption evaluation gives them: lower case, without punctuation marks.
METEOR 1.5 (Denkowski, Lavie 2014) is asked line by line, SPICE 1.0 (arXiv 1607.08822) by file.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from florence.errors import ConfigurationError, DataError
from florence.text.caption_metrics import words_of

METEOR, SPICE = "meteor-1.5.jar", "spice-1.0.jar"
_BETWEEN = " ||| "


@dataclass(frozen=True)
class JavaMetrics:
    """What can be measured here: the jars that there are, absolute, and ``java``."""

    java: str
    meteor: Path | None
    spice: Path | None

    @classmethod
    def found(cls, folder: str) -> JavaMetrics:
        """The jars in a folder.

        Raises:
            ConfigurationError: there is no Java, or none of the jars.
        """
        java = shutil.which("java")
        if java is None:
            raise ConfigurationError(
                f"captioning.jars: no 'java' to run those in {folder} with: install one where the "
                "stage runs, or leave METEOR and SPICE out"
            )
        meteor, spice = (
            path if path.is_file() else None
            for path in (Path(folder).absolute() / name for name in (METEOR, SPICE))
        )
        if meteor is None and spice is None:
            raise ConfigurationError(
                f"captioning.jars: {folder} has neither {METEOR} nor {SPICE}: copy them there"
            )
        return cls(java, meteor, spice)

    def measure(
        self, captions: Sequence[str], references: Sequence[Sequence[str]]
    ) -> dict[str, float]:
        """``meteor`` and ``spice`` in [0, 1], of which there is a jar.

        Args:
            captions: one an image.
            references: of each image at least one.

        Raises:
            DataError: a program failed; with its last words.
        """
        said = [_line(caption) for caption in captions]
        known = [[_line(reference) for reference in group] for group in references]
        metrics = {}
        if self.meteor is not None:
            metrics["meteor"] = _meteor(self.java, self.meteor, said, known)
        if self.spice is not None:
            metrics["spice"] = _spice(self.java, self.spice, said, known)
        return metrics


def _line(caption: str) -> str:
    return " ".join(word for word in words_of(caption) if "|" not in word)


def _meteor(java: str, jar: Path, said: Sequence[str], known: Sequence[Sequence[str]]) -> float:
    """Of all captions together, from the counts of each, which the program gives back."""
    command = [java, "-Xmx2G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(
            command,
            cwd=jar.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
        ) as program,
    ):
        assert program.stdin is not None
        assert program.stdout is not None

        def asked(*parts: str) -> str:
            assert program.stdin is not None
            assert program.stdout is not None
            program.stdin.write(_BETWEEN.join(parts) + "\n")
            program.stdin.flush()
            return program.stdout.readline().strip()

        try:
            counts = [
                asked("SCORE", *group, caption) for caption, group in zip(said, known, strict=True)
            ]
            asked("EVAL", *counts)  # the first caption's own score; the last line is that of all
            *_, final = [program.stdout.readline() for _ in said]
            return float(final)
        except (OSError, ValueError) as error:
            program.kill()
            with suppress(OSError):  # what was not written yet
                program.stdin.close()
            errors.seek(0)
            raise _failed(jar, errors.read()) from error


def _spice(java: str, jar: Path, said: Sequence[str], known: Sequence[Sequence[str]]) -> float:
    with tempfile.TemporaryDirectory() as folder:
        asked, told = Path(folder, "captions.json"), Path(folder, "scores.json")
        entries = [
            {"image_id": i, "test": caption, "refs": group}
            for i, (caption, group) in enumerate(zip(said, known, strict=True))
        ]
        asked.write_text(json.dumps(entries))
        command = [java, "-Xmx8G", "-jar", str(jar), str(asked), "-out", str(told), "-silent"]
        ended = subprocess.run(command, cwd=jar.parent, capture_output=True, check=False)
        try:
            scores = [float(each["scores"]["All"]["f"]) for each in json.loads(told.read_text())]
            return sum(scores) / len(scores)
        except (OSError, ValueError, KeyError, TypeError, ZeroDivisionError) as error:
            raise _failed(jar, ended.stderr) from error


def _failed(jar: Path, errors: bytes) -> DataError:
    lines = errors.decode(errors="replace").strip().splitlines()
    said = lines[-1] if lines else "it said nothing"
    return DataError(f"{jar}: failed: {said}: run it by hand with its own example")
