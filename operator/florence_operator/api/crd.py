"""The CustomResourceDefinition of FlorenceJob, generated from its pydantic models.

``python -m florence_operator.api.crd FILE… [--check]`` writes it, or says which files are stale.
A file below a folder called ``templates`` becomes a template of the Helm chart.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from florence_operator.api.crd_rules import BOUNDS, COLUMNS, LIST_KEYS, ROOT_RULES, RULES
from florence_operator.api.generated import write_or_check
from florence_operator.api.manifest import to_yaml
from florence_operator.api.v1alpha1 import GROUP, KIND, VERSION, FlorenceJob, Metadata

PLURAL = "florencejobs"
NAME = f"{PLURAL}.{GROUP}"

# Bounds of what has none in the models: the API server adds up what a CEL rule may cost at worst.
LONGEST_STRING = 4_096
MOST_ITEMS = 128

_COPIED = (
    "type",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "minimum",
    "maximum",
)
_Schema = dict[str, Any]


def crd() -> dict[str, Any]:
    """The CustomResourceDefinition as the API server takes it."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": NAME},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "preserveUnknownFields": False,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": PLURAL.removesuffix("s"),
                "shortNames": ["fj"],
                "categories": ["all", "florence"],
            },
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "additionalPrinterColumns": COLUMNS,
                    "schema": {"openAPIV3Schema": structural_schema()},
                }
            ],
        },
    }


def structural_schema() -> _Schema:
    """The OpenAPI v3 schema of a FlorenceJob: no references, no unions but int-or-string."""
    models = FlorenceJob.model_json_schema(by_alias=True)
    definitions, properties = models["$defs"], models["properties"]
    spec = _Converter(definitions, bounded=True).convert(properties["spec"], "spec")
    status = _Converter(definitions, bounded=False).convert(properties["status"], "status")
    status.pop("nullable")
    name = Metadata.model_json_schema()["properties"]["name"]
    return {
        "type": "object",
        "description": models["description"],
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string", "description": f"{GROUP}/{VERSION}"},
            "kind": {"type": "string", "description": KIND},
            "metadata": {
                "type": "object",
                # The API server takes these two names of metadata in a schema, and no others.
                "properties": {
                    "name": {key: name[key] for key in ("type", "pattern", "maxLength")}
                },
            },
            "spec": spec,
            "status": status,
        },
        "x-kubernetes-validations": ROOT_RULES,
    }


class _Converter:
    """Turns pydantic's JSON schema into a structural one.

    Args:
        definitions: what references point to.
        bounded: whether strings, lists and maps without a bound get one, and fields their
            defaults: for what users write. What the operator itself writes is left open, so that
            no write of a status is ever refused for its length, nor for a word of another version.
    """

    def __init__(self, definitions: Mapping[str, _Schema], *, bounded: bool) -> None:
        self._definitions = definitions
        self._bounded = bounded

    def convert(self, schema: _Schema, path: str) -> _Schema:
        """The structural form of ``schema``, the field at ``path``."""
        plain, nullable = self._plain(schema)
        if "anyOf" in plain:
            converted: _Schema = {
                "x-kubernetes-int-or-string": True,
                "anyOf": [{"type": "integer"}, {"type": "string"}],
            }
        else:
            copied = [key for key in _COPIED if self._bounded or key != "enum"]
            converted = {key: plain[key] for key in copied if key in plain}
            self._fill(converted, plain, path)
            converted |= BOUNDS.get(path, {})
        description = _description(plain)
        if description and _REPEATED in path:
            description = _ELSEWHERE
        if description:
            converted = {"description": description, **converted}
        if nullable:
            converted["nullable"] = True
        if self._bounded and path in RULES:
            converted["x-kubernetes-validations"] = RULES[path]
        return converted

    def _plain(self, schema: _Schema) -> tuple[_Schema, bool]:
        """``schema`` without reference and without null, and whether it took null."""
        options = schema.get("anyOf", [])
        wanted = [option for option in options if option != {"type": "null"}]
        nullable = len(wanted) < len(options)
        beside = {key: value for key, value in schema.items() if key not in ("anyOf", "$ref")}
        if len(wanted) == 1:
            schema = wanted[0] | beside
        elif wanted:
            return beside | {"anyOf": wanted}, nullable
        if "$ref" in schema:
            schema = self._definitions[schema["$ref"].rpartition("/")[2]] | beside
        return schema, nullable

    def _fill(self, converted: _Schema, plain: _Schema, path: str) -> None:
        """What depends on the type: fields, items, bounds of numbers."""
        kind = plain["type"]
        if "const" in plain:
            converted["enum"] = [plain["const"]]
        if kind == "object":
            self._fill_object(converted, plain, path)
        elif kind == "array":
            items = plain["prefixItems"][0] if "prefixItems" in plain else plain["items"]
            converted["items"] = self.convert(items, f"{path}[]")
            if path in LIST_KEYS:
                converted["x-kubernetes-list-type"] = "map"
                converted["x-kubernetes-list-map-keys"] = LIST_KEYS[path]
            if self._bounded:
                converted.setdefault("maxItems", MOST_ITEMS)
        elif kind == "string" and self._bounded and "enum" not in converted:
            converted.setdefault("maxLength", LONGEST_STRING)
        elif kind == "integer":
            converted["format"] = "int64"
        for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
            if exclusive in plain:
                converted[bound], converted[exclusive] = plain[exclusive], True

    def _fill_object(self, converted: _Schema, plain: _Schema, path: str) -> None:
        if "properties" not in plain:
            values = self.convert(plain["additionalProperties"], f"{path}{{}}")
            converted["additionalProperties"] = values
            if self._bounded:
                converted["maxProperties"] = MOST_ITEMS
            return
        if plain.get("additionalProperties") is True:
            # The API server would drop from stored objects what this schema does not describe:
            # the names of the release before, and what the one after writes.
            converted["x-kubernetes-preserve-unknown-fields"] = True
        required = plain.get("required", [])
        if required:
            converted["required"] = required
        converted["properties"] = {
            name: self._field(schema, f"{path}.{name}", required=name in required)
            for name, schema in plain["properties"].items()
        }

    def _field(self, schema: _Schema, path: str, *, required: bool) -> _Schema:
        converted = self.convert(schema, path)
        if required or not self._bounded or converted.get("nullable"):
            return converted
        if "properties" in converted:
            # Its own fields' defaults fill it, whatever the models' default lists again.
            converted["default"] = {}
        elif schema.get("default") not in (None, [], {}):
            converted["default"] = schema["default"]
        return converted


_REPEATED, _ELSEWHERE = ".evaluation.", "as in evaluate"
"""Every kind that trains has all evaluations: they are described once, lest the CRD outgrow what a
client may apply."""


def _description(schema: _Schema) -> str:
    """A field's description with its unit."""
    text = " ".join(str(schema.get("description", "")).split())
    return f"{text} (unit: {schema['unit']})" if "unit" in schema else text


_HEADER = "# Generated from the models in florence_operator.api by 'make generate'; do not edit.\n"


def plain_file() -> str:
    """The CRD as a YAML document."""
    return _HEADER + to_yaml(crd())


def chart_template() -> str:
    """The CRD as a template of the chart, which may leave it out, and keeps it on uninstall."""
    text = to_yaml(crd())
    if "{{" in text:
        raise ValueError("a description holds '{{', which Helm would take for a template")
    kept = (
        "  annotations:\n"
        "    {{- if .Values.crds.keep }}\n"
        "    helm.sh/resource-policy: keep\n"
        "    {{- end }}\n"
        "    {{- with .Values.crds.annotations }}\n"
        "    {{- toYaml . | nindent 4 }}\n"
        "    {{- end }}\n"
        "  labels:\n"
        '    {{- include "florence-operator.labels" . | nindent 4 }}\n'
    )
    name = f"  name: {NAME}\n"
    text = text.replace(name, name + kept, 1)
    return f"{_HEADER}{{{{- if .Values.crds.enabled }}}}\n{text}{{{{- end }}}}\n"


def main(paths: list[Path], *, check: bool) -> int:
    """Write the CRD into files, or say which of them are stale; 1 when one is."""
    files = {p: chart_template() if p.parent.name == "templates" else plain_file() for p in paths}
    return write_or_check(files, check=check)


if __name__ == "__main__":
    files = [Path(argument) for argument in sys.argv[1:] if argument != "--check"]
    sys.exit(main(files, check="--check" in sys.argv))
