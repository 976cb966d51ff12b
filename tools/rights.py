"""The operator's roles and their table, generated from :mod:`florence_operator.rights`.

``python -m tools.rights [--check]`` writes them, or says which are stale.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from florence_operator import rights
from florence_operator.api.generated import write_or_check
from florence_operator.rights import Right
from tools.generated_part import with_part

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/operations.md"
_CHART_NAMES = {
    rights.NAME: '{{ include "florence-operator.fullname" . }}',
    rights.TLS_SECRET: '{{ include "florence-operator.tlsSecret" . }}',
}
_CHART_CONDITIONS = {
    rights.TAINTS: "{{- if ne "
    '((.Values.config.failures | default dict).taintNodes | default "none") "none" }}',
    "selfMade": '{{- if eq (include "florence-operator.selfMade" .) "true" }}',
    "webhookAuthority": "{{- if and "
    '(eq (include "florence-operator.selfMade" .) "true") .Values.webhook.enabled }}',
}
_GENERATED = "Generated from operator/florence_operator/rights.py: run 'make generate'."
_ROLES = {
    "jobs": (
        "What the operator does in the namespaces of jobs. With scope `namespaced` this is a "
        "Role there.",
        rights.IN_JOBS_NAMESPACES,
    ),
    "cluster": ("What has no namespace, in either scope.", rights.WITHOUT_NAMESPACE),
    "own_namespace": ("What the operator does in its own namespace.", rights.IN_OWN_NAMESPACE),
}


def rules(found: Sequence[Right], names: Mapping[str, str] | None = None) -> list[str]:
    """The lines of a role's ``rules``; with ``names`` as a chart's template."""
    lines = []
    for right in found:
        if names is None and right.needed == rights.TAINTS:
            continue
        condition = _CHART_CONDITIONS[right.needed] if names and right.needed else ""
        lines += [condition] if condition else []
        lines.append(f"- apiGroups: [{right.group or chr(34) * 2}]")
        lines.append(f"  resources: [{right.resource}]")
        if right.names:
            given = (names or {}).get(right.names[0], right.names[0])
            lines.append(f"  resourceNames: [{given}]")
        lines.append(f"  verbs: [{', '.join(right.verbs)}]")
        lines += ["{{- end }}"] if condition else []
    return lines


def manifest(said: str, name: str, found: Sequence[Right], *, own: bool) -> str:
    """One role and its binding, for kustomize."""
    kind = "Role" if own else "ClusterRole"
    place = ["  namespace: florence-system"] if own else []
    api = "apiVersion: rbac.authorization.k8s.io/v1"
    return "\n".join(
        [
            *(f"# {line}" for line in (said, _GENERATED)),
            *(api, f"kind: {kind}", "metadata:", f"  name: {name}", *place, "rules:"),
            *rules(found),
            *("---", api, f"kind: {kind}Binding", "metadata:", f"  name: {name}", *place),
            *("roleRef:", "  apiGroup: rbac.authorization.k8s.io", f"  kind: {kind}"),
            *(f"  name: {name}", "subjects:", "- kind: ServiceAccount", f"  name: {rights.NAME}"),
            *("  namespace: florence-system", ""),
        ]
    )


def template() -> str:
    """The chart's named templates: the rules of each role."""
    parts = [f"{{{{- /* {_GENERATED} */}}}}"]
    for name, (_, found) in _ROLES.items():
        camel = name.split("_")[0] + "".join(word.title() for word in name.split("_")[1:])
        parts.append(f'{{{{- define "florence-operator.{camel}Rules" -}}}}')
        parts += rules(found, _CHART_NAMES)
        parts.append("{{- end }}")
    return "\n".join([*parts, ""])


def table() -> str:
    """The rights as the page has them."""
    lines = ["| where | resource | verbs | why |", "|---|---|---|---|"]
    places = {
        "jobs": "namespaces of jobs",
        "cluster": "no namespace",
        "own_namespace": "its own namespace",
    }
    for name, (_, found) in _ROLES.items():
        place = places[name]
        for right in found:
            resource = f"`{right.resource}`" + "".join(f" `{each}`" for each in right.names)
            for use in right.uses:
                lines.append(f"| {place} | {resource} | {', '.join(use.verbs)} | {use.why} |")
    return "\n".join(lines)


def files() -> dict[Path, str]:
    """Every file that is generated from the rights."""
    rbac = ROOT / "manifests/base/rbac"
    names = {
        "jobs": f"{rights.NAME}-jobs",
        "cluster": f"{rights.NAME}-cluster",
        "own_namespace": rights.NAME,
    }
    made = {
        rbac / f"{name}.yaml": manifest(said, names[name], found, own=name == "own_namespace")
        for name, (said, found) in _ROLES.items()
    }
    made[ROOT / "charts/florence-operator/templates/_rights.tpl"] = template()
    made[PAGE] = with_part(PAGE.read_text(encoding="utf-8"), "rights", table())
    return made


if __name__ == "__main__":
    sys.exit(write_or_check(files(), check="--check" in sys.argv[1:]))
