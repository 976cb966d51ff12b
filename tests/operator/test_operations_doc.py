"""docs/operations.md against the code: every word that the operator says is explained there."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from pydantic import BaseModel
from pydantic.alias_generators import to_camel

from florence_operator.api.failure import Cause, budget_of
from florence_operator.api.labels import ATTEMPT_LABEL, JOB_LABEL, STAGE_LABEL, UID_LABEL
from florence_operator.api.status import State
from florence_operator.api.v1alpha1 import ARTIFACTS_FINALIZER
from florence_operator.build.children import PRIORITY_LABEL, QUEUE_LABEL
from florence_operator.runtime.metrics import Metrics
from florence_operator.settings import OperatorConfiguration
from florencectl.main import load_command

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
KUBECTL = shutil.which("kubectl")

# The modules whose words end up in status and events.
DECIDING = (
    *(
        "reconcile/decide",
        "reconcile/next_attempt",
        "reconcile/transitions",
        "reconcile/stalls",
        "reconcile/queueing",
    ),
    *("reconcile/cleanup", "reconcile/failures", "reconcile/status", "reconcile/stage_view"),
    "api/retrying",
)
# Words in them that are not said but read: of Kubernetes, the Training Operator and Kueue.
READ = {
    *("Child", "FlorenceJob", "Pod", "Node", "Workload"),
    *("Pending", "Succeeded", "Failed", "Running"),
    *("Evicted", "NodeShutdown", "Terminated", "Preempting", "Shutdown", "NodeLost"),
    *("PreemptionByScheduler", "DeletionByTaintManager", "UnexpectedAdmissionError"),
    *("OOMKilled", "True", "False"),
    *("PodsReadyTimeout", "NodeFailures", "MaximumExecutionTimeExceeded"),
}
# What events say that is done about the job; kubectl does not show it.
ACTIONS = {"Finishing", "Suspending", "Resuming", "Starting", "Deleting", "Queueing", "Watching"}


def trees() -> dict[str, ast.Module]:
    folder = ROOT / "operator/florence_operator"
    return {name: ast.parse((folder / f"{name}.py").read_text()) for name in DECIDING}


def words_of_the_code() -> set[str]:
    """Every single capitalised word in the deciding modules: reasons, and what they read."""
    return {
        node.value
        for tree in trees().values()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and re.fullmatch(r"[A-Z]+[a-z]+([A-Z]+[a-z]+)*", node.value)
    }


def event_reasons() -> set[str]:
    return {
        call.args[0].value
        for tree in trees().values()
        for call in ast.walk(tree)
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and call.func.attr == "tell"
        and isinstance(call.args[0], ast.Constant)
        and isinstance(call.args[0].value, str)
    }


def noticed() -> set[str]:
    """The reasons of events about jobs that nothing can be decided of."""
    path = ROOT / "operator/florence_operator/reconcile/reconciler.py"
    return {
        word.value.value
        for call in ast.walk(ast.parse(path.read_text()))
        if isinstance(call, ast.Call)
        for word in call.keywords
        if word.arg == "reason" and isinstance(word.value, ast.Constant)
    }


def section(title: str) -> str:
    """The text below a heading, down to the next one of its level or above."""
    match = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#{{1,2}} |\Z)", PAGE, re.M | re.S)
    assert match, title
    return match[2]


def rows(text: str, header: str) -> list[list[str]]:
    """The cells of a table, whose first column's title is ``header``."""
    match = re.search(rf"^\| {header} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.M)
    assert match, header
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in match[1].splitlines()]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def first_names(text: str, header: str) -> set[str]:
    return {name for row in rows(text, header) for name in names(row[0])}


def test_every_state_is_explained_and_no_other() -> None:
    assert first_names(section("How a job moves"), "state") == set(State)


def test_every_cause_is_explained_with_its_budget() -> None:
    told = {names(row[0])[0]: row[2] for row in rows(section("Causes"), "cause")}
    assert told == {cause: budget_of(cause) for cause in Cause}


def test_every_reason_is_explained_and_no_other() -> None:
    told = first_names(section("Conditions and reasons"), "reason")
    known = words_of_the_code()
    assert known >= {"WaitingForQuota", "InvalidSpec", "BudgetExhausted", "DependencyFailed"}
    assert told >= known - READ - ACTIONS - event_reasons()
    assert told >= {"Running", "Succeeded", "Suspended"}  # words that are also read or events
    # Nothing is explained that the code never says, and nothing is excused that it no longer has.
    assert told <= known | set(Cause)
    assert known >= READ | ACTIONS


def test_every_event_is_explained() -> None:
    told = first_names(section("Events"), "reason")
    assert event_reasons() | noticed() | {Cause.REJECTED} == told
    # The others are causes.
    assert "each cause but `Suspended`" in section("Events")


def test_every_condition_is_named() -> None:
    text = section("Conditions and reasons").strip().split("\n\n")[0]
    assert set(names(text)) == set(State) - {State.PENDING, State.STARTING}


def test_every_metric_is_explained_with_type_and_labels() -> None:
    metrics = vars(Metrics(CollectorRegistry())).values()
    kinds = {Counter: "counter", Gauge: "gauge", Histogram: "histogram"}
    known = {}
    for metric in metrics:
        if isinstance(metric, Counter | Gauge | Histogram):
            kind = kinds[type(metric)]
            name = metric._name + ("_total" if kind == "counter" else "")
            known[name] = (kind, ", ".join(metric._labelnames))
    table = rows(section("Metrics and alerts"), "metric")
    assert {names(row[0])[0]: (row[1], row[2]) for row in table} == known
    assert set(re.findall(r"\bflorence_[a-z_]+", PAGE)) <= set(known)
    assert set(re.findall(r"\b(?:rest_client|workqueue)_[a-z_]+", PAGE)) <= set(known)


def test_every_alert_has_something_to_do() -> None:
    chart = ROOT / "charts/florence-operator/templates/prometheusrule.yaml"
    text = chart.read_text()
    known = dict(re.findall(r"alert: (\w+)\n.*?severity: (\w+)", text, re.S))
    assert known
    table = rows(section("Metrics and alerts"), "alert")
    assert {names(row[0])[0]: row[1] for row in table} == known


def fields(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, str]]:
    """Every setting and its default, as the page writes it."""
    for name, field in model.model_fields.items():
        wire = path + to_camel(name)
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from fields(kind, f"{wire}.")
            continue
        yield wire, written(field.get_default(call_default_factory=True))


def written(value: object) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return "[]" if value == () else str(value)


def test_every_setting_is_explained_with_its_default() -> None:
    table = rows(section("Settings"), "field")
    assert {names(row[0])[0]: row[1] for row in table} == dict(fields(OperatorConfiguration))


def test_every_mention_of_a_setting_is_of_one() -> None:
    groups = "leaderElection|apiClient|statusWrites|failures|progress|certificates|webhook"
    mentioned = {
        word for word in names(PAGE) if re.fullmatch(rf"(?:{groups}|defaults|allowed)\.\w+", word)
    }
    values = yaml.safe_load((ROOT / "charts/florence-operator/values.yaml").read_text())
    of_chart = {
        f"{group}.{key}"
        for group in values
        if isinstance(values[group], dict)
        for key in values[group]
    }
    assert mentioned <= {name for name, _ in fields(OperatorConfiguration)} | of_chart


def test_the_rights_are_those_of_the_manifests() -> None:
    told: dict[str, set[str]] = {}
    for _, resource, verbs, _ in rows(section("The operator"), "where"):
        told.setdefault(names(resource)[0], set()).update(verbs.split(", "))
    granted: dict[str, set[str]] = {}
    for file in ("jobs", "cluster", "own_namespace"):
        text = (ROOT / f"manifests/base/rbac/{file}.yaml").read_text()
        for document in yaml.safe_load_all(text):
            for rule in document.get("rules", ()):
                for name in rule["resources"]:
                    granted.setdefault(name, set()).update(rule["verbs"])
    # Only the chart grants it, to those who ask for taints.
    granted["nodes"].add("patch")
    assert told == granted


def test_labels_and_the_finalizer_are_named() -> None:
    labels = {JOB_LABEL, UID_LABEL, STAGE_LABEL, ATTEMPT_LABEL, QUEUE_LABEL, PRIORITY_LABEL}
    assert labels | {ARTIFACTS_FINALIZER} <= set(names(PAGE))


@cache
def commands(program: str) -> list[str]:
    """Every command line of a program in the page: those of blocks, and those within sentences."""
    blocks = re.findall(rf"^    ({program} .*)$", PAGE, re.M)
    lines = [re.split(r"\s{2,}#", line)[0] for line in blocks]
    return sorted({*lines, *re.findall(rf"`({program} [^`]+)`", PAGE)})


@pytest.mark.parametrize("line", commands("florencectl"))
def test_commands_of_florencectl_exist_with_their_options(line: str) -> None:
    _, name, *arguments = shlex.split(line)
    command = load_command(name)
    context = command.make_context(name, list(arguments))
    if hasattr(command, "commands"):
        inner = command.commands[arguments[0]]
        context = inner.make_context(arguments[0], arguments[1:], parent=context)
    assert context.command is not None


def verb_and_options(line: str) -> tuple[str, set[str]]:
    words = shlex.split(line)[1:]
    if words[0] == "-n":
        words = words[2:]
    options = {word.split("=")[0] for word in words if re.match(r"--?[a-z]", word)}
    return words[0], options


@pytest.mark.skipif(KUBECTL is None, reason="kubectl is not on PATH")
@pytest.mark.parametrize("line", commands("kubectl"))
def test_commands_of_kubectl_exist_with_their_options(line: str) -> None:
    verb, options = verb_and_options(line)
    assert KUBECTL is not None
    words = shlex.split(line)
    deeper = [words[words.index(verb) + 1]] if verb in ("auth", "rollout", "create") else []
    run = [KUBECTL, verb, *deeper]
    shown = "".join(
        subprocess.run([*given], capture_output=True, text=True, check=True, timeout=120).stdout
        for given in ([*run, "--help"], [KUBECTL, "options"])
    )
    for option in options:
        assert re.search(rf"^\s+(-\w, )?{option}[=,]", shown, re.M), (line, option)


def test_links_lead_to_headings_and_files() -> None:
    headings = re.findall(r"^#+ (.+)$", PAGE, re.M)
    slugs = {re.sub(r"[^a-z0-9 -]", "", title.lower()).replace(" ", "-") for title in headings}
    for target in re.findall(r"\]\(([^)]+)\)", PAGE):
        path, _, anchor = target.partition("#")
        if path:
            assert (ROOT / "docs" / path).is_file(), target
        else:
            assert anchor in slugs, target
