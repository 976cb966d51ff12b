"""What is said to the programs of METEOR and SPICE, and what is made of their answers."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from florence.errors import ConfigurationError, DataError
from florence.tasks.caption.java_metrics import METEOR, SPICE, JavaMetrics

# Counts are words that caption and references share and words of the caption; scores their parts.
JAVA = """#!{python}
import json, sys
from pathlib import Path
arguments = sys.argv[1:]
assert arguments[1] == "-jar"
jar, rest = Path(arguments[2]), arguments[3:]
if jar.read_text() == "broken":
    print("a stack", "Exception: no data", sep="\\n", file=sys.stderr)
    sys.exit(1)
def shared(caption, references):
    known = set(" ".join(references).split())
    return sum(word in known for word in caption.split()), len(caption.split())
if jar.name.startswith("meteor"):
    assert rest == ["-", "-", "-stdio", "-l", "en", "-norm"]
    for line in sys.stdin:
        what, *parts = [part.strip() for part in line.split("|||")]
        if what == "SCORE":
            print(*shared(parts[-1], parts[:-1]), flush=True)
        else:
            counts = [tuple(map(int, part.split())) for part in parts]
            for right, words in counts:
                print(right / words)
            print(sum(c[0] for c in counts) / sum(c[1] for c in counts), flush=True)
else:
    found = []
    for each in json.loads(Path(rest[0]).read_text()):
        right, words = shared(each["test"], each["refs"])
        found.append({{"image_id": each["image_id"], "scores": {{"All": {{"f": right / words}}}}}})
    Path(rest[rest.index("-out") + 1]).write_text(json.dumps(found))
"""
CAPTIONS = ["A dog, running.", "a cat"]
REFERENCES = [["a dog runs", "the running man"], ["a bird"]]


@pytest.fixture
def jars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    java = tmp_path / "bin/java"
    java.parent.mkdir()
    java.write_text(JAVA.format(python=sys.executable))
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(java.parent))
    folder = tmp_path / "jars"
    folder.mkdir()
    for name in (METEOR, SPICE):
        (folder / name).write_text("")
    return folder


def test_both_are_measured_on_words_without_marks(jars: Path) -> None:
    found = JavaMetrics.found(str(jars)).measure(CAPTIONS, REFERENCES)
    assert found == {"meteor": pytest.approx(4 / 5), "spice": pytest.approx((1 + 0.5) / 2)}


def test_only_what_there_is_is_measured(jars: Path) -> None:
    (jars / METEOR).unlink()
    assert JavaMetrics.found(str(jars)).measure(CAPTIONS, REFERENCES).keys() == {"spice"}
    (jars / SPICE).unlink()
    with pytest.raises(ConfigurationError, match=rf"has neither {METEOR} nor {SPICE}"):
        JavaMetrics.found(str(jars))


def test_without_java_it_is_said(jars: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(jars))
    with pytest.raises(ConfigurationError, match="no 'java' to run those in"):
        JavaMetrics.found(str(jars))


@pytest.mark.parametrize("name", [METEOR, SPICE])
def test_a_failing_program_is_told_with_its_last_words(jars: Path, name: str) -> None:
    (jars / name).write_text("broken")
    with pytest.raises(DataError, match=rf"{name}: failed: Exception: no data: run it by hand"):
        JavaMetrics.found(str(jars)).measure(CAPTIONS, REFERENCES)
