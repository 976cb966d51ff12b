"""Run the samples on this machine: whole, for the figures that the docs quote, or short, for CI.

python -m tools.samples [NAME…]            full length; writes their rows in docs/results.md
python -m tools.samples --short [NAME…]    fewer steps; only looks that each ends well and learns

Every sample is a job under ``jobs/samples`` and runs as a user would run it, with
``florencectl submit -f … --local``, in a home folder of its own. What is required of its figures is
here, beside what makes its short form.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from florence.data.digit_questions import language_only_accuracy, questions_of_split
from florence.home import florence_home
from florencectl.run_display import shown
from tools.digit_captions import figures_of_stage

RESULTS = Path("docs/results.md")
PRETRAINED = "artifacts/default/digits/clean/model"
"""Where `make run` leaves its two towers, in its home folder."""
BEGIN, END = "<!-- samples:begin", "<!-- samples:end -->"


@dataclass(frozen=True, kw_only=True)
class Sample:
    """One sample.

    Attributes:
        short: assignments that make it quick. What is there for comparison is left out.
        required: least values of metrics at full length, by ``stage/metric``.
        chance: what the short form must clearly beat.
        minutes: what the full length may take on two cores.
        captioning: stages whose captions of digits are looked at, see :mod:`tools.digit_captions`.
        asking: whether it asks about scenes of digits: how often they are answered without looking
            is told too.
        pretraining: the stages that the short form leaves out where ``make run`` has left a model:
            what depends on them starts from that.
    """

    short: tuple[str, ...] = ()
    pretraining: tuple[str, ...] = ()
    required: Mapping[str, float] = field(default_factory=dict)
    chance: Mapping[str, float] = field(default_factory=dict)
    minutes: float
    captioning: tuple[str, ...] = ()
    asking: bool = False


SAMPLES: dict[str, Sample] = {
    "digits": Sample(
        required={"probe/linear-probe/top1": 0.98, "zero-shot/digits/top1": 0.97},
        minutes=4,
    ),
    "digits-finetune": Sample(
        short=(
            "pretrain.steps=60",
            "few-shot.fewShot.episodes=4",
            "few-shot.fewShot.epochs=5",
            "head.steps=30",
            "contrastive.steps=30",
            "retrieval.steps=20",
        ),
        required={"head/head/top1": 0.985, "few-shot/few-shot/5-way-5-shot": 0.95},
        chance={
            "few-shot/few-shot/5-way-5-shot": 0.4,
            "head/head/top1": 0.3,
            "contrastive/contrastive/top1": 0.3,
            "retrieval/retrieval/textToImage/R@10": 0.5,
        },
        minutes=8,
    ),
    "digits-detection": Sample(
        short=(
            "scans.steps=15",
            "pretrain.steps=15",
            "boxes.steps=40",
            "zero-shot.steps=5",
            "five-shot.steps=5",
        ),
        pretraining=("scans", "pretrain"),
        required={"boxes/boxes/ap50": 0.90, "boxes/boxes/ap": 0.55},
        chance={"boxes/boxes/ap50": 0.01},
        minutes=10,
    ),
    "digits-video": Sample(
        short=(
            "scans.steps=15",
            "pretrain.steps=15",
            "actions.steps=50",
            "retrieval.steps=10",
        ),
        pretraining=("scans", "pretrain"),
        required={
            "actions/actions/top1": 0.95,
            "retrieval/video-retrieval/textToVideo/R@1": 0.60,
        },
        chance={"actions/actions/top1": 0.3},
        minutes=12,
    ),
    "digits-vision-language": Sample(
        short=(
            "scans.steps=15",
            "pretrain.steps=15",
            "vlp.steps=15",
            "vqa.steps=60",
            "caption.steps=15",
        ),
        required={
            "vlp/vlp/accuracy": 0.90,
            "vqa/vqa/accuracy": 0.75,
            "caption/caption/cider": 1.0,
            "caption/caption/count": 0.80,
        },
        pretraining=("scans", "pretrain"),
        # Who only reads the questions is right in 43 %.
        chance={"vqa/vqa/accuracy": 0.45},
        minutes=15,
        captioning=("caption", "caption-no-vlp", "caption-scratch"),
        asking=True,
    ),
}


def run(name: str, *, short: bool) -> tuple[dict[str, float], float]:
    """Run a sample in a fresh home folder; its metrics by ``stage/metric``, and its seconds.

    Raises:
        SystemExit: it did not end well; its log is on stderr.
    """
    sample, path = SAMPLES[name], Path(f"jobs/samples/{name}.yaml")
    model = florence_home() / PRETRAINED
    assignments: tuple[str, ...] = ()
    with tempfile.TemporaryDirectory() as home:
        if short:
            document = without_comparisons(yaml.safe_load(path.read_text("utf-8")))
            if model.is_dir():
                document = on_model(document, sample.pretraining, str(model))
            path = Path(home, path.name)
            path.write_text(yaml.safe_dump(document))
            assignments = of_stages(sample.short, document)
        command = [sys.executable, "-m", "florencectl.main", "submit", "--local", "-o", "json"]
        command += ["-f", str(path)]
        for assignment in assignments:
            command += ["--set", assignment]
        start = time.monotonic()
        ended = subprocess.run(
            command,
            env={**os.environ, "FLORENCE_HOME": home},
            stdout=subprocess.PIPE,
            text=True,
            check=False,
        )
        seconds = time.monotonic() - start
        if ended.returncode:
            raise SystemExit(f"{name}: ended with {ended.returncode}")
        metrics = metrics_of(json.loads(ended.stdout))
        ran = {path.partition("/")[0] for path in metrics}
        for stage in (each for each in sample.captioning if each in ran):
            found = figures_of_stage(Path(home, "artifacts/default", name, stage))
            metrics |= {f"{stage}/caption/{figure}": value for figure, value in found.items()}
    if sample.asking:
        metrics |= without_looking()
    return metrics, seconds


def without_looking() -> dict[str, float]:
    """How often questions about scenes of digits are answered by who only reads them."""
    train, test = (questions_of_split(split) for split in ("train", "test"))
    return {"language-only/vqa/accuracy": language_only_accuracy(train, test)}


def is_comparison(stage: str) -> bool:
    """Whether a stage is only there so that others can be compared with it."""
    return stage.endswith(("-scratch", "-one-frame", "-no-vlp"))


def without_comparisons(document: Mapping[str, Any]) -> dict[str, Any]:
    """A job without the stages of which :func:`is_comparison` is true."""
    kept = [each for each in document["spec"]["stages"] if not is_comparison(each["name"])]
    return {**document, "spec": {**document["spec"], "stages": kept}}


def on_model(document: Mapping[str, Any], left_out: Sequence[str], model: str) -> dict[str, Any]:
    """A job without some of its stages: what depended on them starts from a model instead."""
    stages = []
    for each in document["spec"]["stages"]:
        if each["name"] in left_out:
            continue
        before = each.get("dependsOn", ())
        rest = [name for name in before if name not in left_out]
        changed = {key: value for key, value in each.items() if key != "dependsOn"}
        if len(rest) < len(before):
            changed["initialModel"] = model
        stages.append({**changed, "dependsOn": rest} if rest else changed)
    return {**document, "spec": {**document["spec"], "stages": stages}}


def of_stages(assignments: Sequence[str], document: Mapping[str, Any]) -> tuple[str, ...]:
    """Those of ``stage.field=value`` whose stage a job has."""
    names = {each["name"] for each in document["spec"]["stages"]}
    return tuple(each for each in assignments if each.partition(".")[0] in names)


def metrics_of(job: Mapping[str, object]) -> dict[str, float]:
    """The metrics of a job's stages, by ``stage/metric``."""
    status = job["status"]
    assert isinstance(status, dict)
    return {
        f"{stage['name']}/{metric}": value
        for stage in status["stages"]
        for metric, value in stage.get("metrics", {}).items()
    }


def shortfalls(metrics: Mapping[str, float], least: Mapping[str, float]) -> list[str]:
    """A phrase for every metric that is missing or below what is required."""
    return [
        f"{name} is {metrics[name]:.4f}, below {value}" if name in metrics else f"{name} is missing"
        for name, value in least.items()
        if metrics.get(name, float("-inf")) < value
    ]


def rows_of(name: str, metrics: Mapping[str, float], seconds: float) -> list[str]:
    """The rows of a sample in the table; metrics of time and progress are left out."""
    rows = []
    for path, value in metrics.items():
        stage, _, metric = path.partition("/")
        if metric not in ("steps", "logitScale"):
            rows.append(f"| {name} | {stage} | {metric} | {shown(metric, value)} |")
    return [*rows, f"| {name} | | minutes | {seconds / 60:.1f} |"]


def rows_on(page: str) -> dict[str, list[str]]:
    """The rows that a page has between its two marks, by sample."""
    _, _, inside = page.partition(BEGIN)
    found: dict[str, list[str]] = {}
    for line in inside.partition(END)[0].splitlines():
        name = line.strip("| ").partition(" ")[0]
        if line.startswith("|") and name in SAMPLES:
            found.setdefault(name, []).append(line)
    return found


def with_table(page: str, rows: Mapping[str, Sequence[str]]) -> str:
    """The page with the samples' rows as a Markdown table between its two marks."""
    before, mark, rest = page.partition(BEGIN)
    first_line, _, after = rest.partition("\n")
    _, end, tail = after.partition(END)
    if not mark or not end:
        raise SystemExit(f"{RESULTS}: has no '{BEGIN}' … '{END}' to write between")
    lines = ["| sample | stage | metric | value |", "|---|---|---|---|"]
    lines += [row for name in SAMPLES for row in rows.get(name, ())]
    return "\n".join((f"{before}{mark}{first_line}", *lines, f"{end}{tail}"))


def main(arguments: Sequence[str]) -> int:
    """Run the named samples, or all; 1 when one does not reach what is required of it."""
    parser = argparse.ArgumentParser(prog="python -m tools.samples")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SAMPLES)}")
    parser.add_argument("--short", action="store_true", help="fewer steps, no table")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in SAMPLES:
            parser.error(f"unknown sample '{name}': use {', '.join(SAMPLES)}")
    rows, failed = {}, False
    for name in options.names or SAMPLES:
        metrics, seconds = run(name, short=options.short)
        rows[name] = rows_of(name, metrics, seconds)
        sample = SAMPLES[name]
        found = shortfalls(metrics, sample.chance if options.short else sample.required)
        print("\n".join(rows[name]))
        print(f"{name}: {seconds / 60:.1f} min{''.join(f'; {each}' for each in found)}", flush=True)
        failed |= bool(found)
    if not options.short:
        page = RESULTS.read_text("utf-8")
        RESULTS.write_text(with_table(page, {**rows_on(page), **rows}), "utf-8")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
