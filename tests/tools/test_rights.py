"""The generated roles are fresh, and each right is of something that the code asks for."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from florence_operator import rights
from florence_operator.kube.resources import KNOWN
from tools import causes
from tools import rights as tool

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("files", [tool.files, causes.files])
def test_what_is_generated_is_fresh(files: object) -> None:
    assert callable(files)
    for path, text in files().items():
        assert path.read_text(encoding="utf-8") == text, path


def test_every_right_is_of_a_kind_that_the_operator_names() -> None:
    variables = {f"{resource.group}/{resource.plural}": resource.kind for resource in KNOWN}
    given = (*rights.IN_JOBS_NAMESPACES, *rights.WITHOUT_NAMESPACE, *rights.IN_OWN_NAMESPACE)
    for right in given:
        plural = right.resource.partition("/")[0]
        assert f"{right.group}/{plural}" in variables, right


def test_kustomize_and_the_table_have_the_same_rules_as_the_source() -> None:
    for name, (_, found) in tool._ROLES.items():
        text = (ROOT / f"manifests/base/rbac/{name}.yaml").read_text(encoding="utf-8")
        role = next(yaml.safe_load_all(text))
        assert [
            (rule["apiGroups"][0], rule["resources"][0], tuple(rule["verbs"]))
            for rule in role["rules"]
        ] == [
            (right.group, right.resource, right.verbs)
            for right in found
            if right.needed != rights.TAINTS
        ]


def test_no_right_is_a_wildcard_or_reads_secrets_or_execs() -> None:
    given = (*rights.IN_JOBS_NAMESPACES, *rights.WITHOUT_NAMESPACE, *rights.IN_OWN_NAMESPACE)
    for right in given:
        assert not re.search(r"[*]|exec|/log", f"{right.group} {right.resource} {right.verbs}")
        if right.resource == "secrets":
            assert right.verbs == ("patch",)
            assert right.names
