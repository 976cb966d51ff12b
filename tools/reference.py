"""The reference of every field of a FlorenceJob, generated from its pydantic models.

``python -m tools.reference FILE [--check]`` writes it, or says that it is stale. Kinds come from
:mod:`florence.kinds` and evaluations from :mod:`florence.evaluation.registry`, so that a new one is
in the reference as soon as it is registered. ``--release`` notes the fields that no release had for
that of ``pyproject.toml``: no file says since when a field exists but this record.
"""

from __future__ import annotations

import json
import pkgutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic.alias_generators import to_camel

from florence import errors
from florence.config import Training
from florence.config.evaluate import Evaluate
from florence.errors import FlorenceError
from florence.evaluation.registry import EVALUATIONS
from florence.kinds import KINDS
from florence.tasks.kind import Kind
from florence_operator.api.duration import DURATION_PATTERN
from florence_operator.api.failure import budget_of, cause_of_exit
from florence_operator.api.generated import write_or_check
from florence_operator.api.status import JobStatus
from florence_operator.api.v1alpha1 import JobSpec, Metadata, StageBase
from tools.version import version_of

Schema = Mapping[str, Any]

_HEAD = """\
# Every field of a FlorenceJob, and every exit code

Generated from the pydantic models by `make generate`; do not edit. The CRD, the flags of
`florencectl submit KIND` and this page have one source. A field without a default has to be given;
"none" means that it may be left out. Paths start at the title of their section; `[]` stands for
one of a list, `{}` for one of a map. "since" is the release that brought a field, `next` the one
to come. On the command line a plain field of a stage is a flag
(`batchSize` is `--batch-size`); every other is reached with `--set`, as in
`--set optimizer.lr=3e-4`.

`apiVersion` is `florence.dev/v1alpha1` and `kind` is `FlorenceJob`.
"""
_STAGES = "spec.stages[]"
RECORD = Path(__file__).with_name("released_fields.json")
"""Every field that a release had, by the first one: ``{"0.1.0": ["metadata.name", …]}``."""
NEXT = "next"


@dataclass(frozen=True, slots=True)
class Row:
    """One field.

    Attributes:
        path: dotted, from the top of its section.
        default: as it is written in YAML; ``required``, or empty for a group of fields.
    """

    path: str
    type: str
    unit: str
    default: str
    description: str

    def line(self, since: str) -> str:
        """The row of a Markdown table."""
        cells = (f"`{self.path}`", self.type, self.unit, self.default, since, self.description)
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


class Fields:
    """The fields of a settings model, one row each, groups before what is in them.

    Args:
        stop_at: models that have a section of their own, by name, and the text that refers to it.
    """

    def __init__(self, model: type[BaseModel], *, stop_at: Mapping[str, str] | None = None) -> None:
        schema = model.model_json_schema(by_alias=True)
        self._schema = schema
        self._definitions: Mapping[str, Schema] = schema.get("$defs", {})
        self._stop_at = stop_at or {}

    def rows(self, *, without: Sequence[str] = ()) -> list[Row]:
        """Every row, without the fields of the top that are named."""
        return list(self._rows(self._schema, "", without))

    def _rows(self, schema: Schema, path: str, without: Sequence[str] = ()) -> Iterator[Row]:
        required = schema.get("required", ())
        for name, field in schema.get("properties", {}).items():
            if name not in without:
                where = f"{path}.{name}" if path else name
                yield from self._field(field, where, required=name in required)

    def _field(self, field: Schema, path: str, *, required: bool) -> Iterator[Row]:
        plain, model = self._plain(field)
        said = " ".join(str(field.get("description", "")).split())
        if model in self._stop_at:
            said = f"{said}; {self._stop_at[model]}"
        items, below = self._items(plain), path
        if items is not None:
            below = f"{path}[]" if plain["type"] == "array" else f"{path}{{}}"
        inner = items if items is not None else plain
        is_group = "properties" in inner
        default = "" if is_group and items is None else _default(field, required=required)
        yield Row(path, self._type(plain), str(field.get("unit", "")), default, said)
        if is_group and model not in self._stop_at:
            yield from self._rows(inner, below)

    def _plain(self, schema: Schema) -> tuple[Schema, str]:
        """``schema`` without null and reference, and the name of the model it refers to."""
        if options := [one for one in schema.get("anyOf", ()) if one != {"type": "null"}]:
            beside = {key: value for key, value in schema.items() if key != "anyOf"}
            schema = {**options[0], **beside} if len(options) == 1 else {**beside, "anyOf": options}
        model = str(schema.get("$ref", "")).rpartition("/")[2]
        return (self._definitions[model] if model else schema), model

    def _items(self, schema: Schema) -> Schema | None:
        """What a list or a map holds; ``None`` for anything else."""
        if schema.get("type") == "array":
            return self._plain(schema.get("items") or schema["prefixItems"][0])[0]
        if schema.get("type") == "object" and isinstance(schema.get("additionalProperties"), dict):
            return self._plain(schema["additionalProperties"])[0]
        return None

    def _type(self, schema: Schema) -> str:
        if "const" in schema:
            return f"`{schema['const']}`"
        if "enum" in schema:
            return " or ".join(f"`{value}`" for value in schema["enum"])
        if schema.get("pattern") == DURATION_PATTERN:
            return "duration"
        if "anyOf" in schema:
            return " or ".join(self._type(self._plain(one)[0]) for one in schema["anyOf"])
        items = self._items(schema)
        if items is not None:
            many = f"{len(schema['prefixItems'])} of " if "prefixItems" in schema else "list of "
            return (many if schema["type"] == "array" else "map of ") + self._type(items)
        return str(schema.get("type", "any value")) + _bounds(schema)


def _bounds(schema: Schema) -> str:
    """The range of a number, as `≥ 1, < 2`."""
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    found = [f"{sign} {_text(schema[key])}" for key, sign in signs.items() if key in schema]
    return f" {', '.join(found)}" if found else ""


def _default(field: Schema, *, required: bool) -> str:
    if required:
        return "required"
    value = field.get("default")
    if value is None:
        return "none"
    return f"`{_text(value)}`"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return f"[{', '.join(map(_text, value))}]"
    return '""' if value == "" else str(value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """The fields below one path.

    Attributes:
        title: heading of the section.
        below: what the record of releases calls the place of its fields.
        said: what stands above the table.
        since: whether the place itself is new at times, as that of a kind is.
    """

    title: str
    below: str
    rows: Sequence[Row]
    said: str = ""
    since: bool = False

    def fields(self) -> list[str]:
        """Its fields, as the record of releases calls them."""
        own = [self.below] if self.since else []
        return [*own, *(f"{self.below}.{row.path}" for row in self.rows)]

    def text(self, since: Mapping[str, str]) -> str:
        """The section in Markdown."""
        said = self.said
        if self.since:
            said += f" Since {since.get(self.below, NEXT)}."
        head = ["", f"## {self.title}", "", said, ""] if said else ["", f"## {self.title}", ""]
        table = ["| field | type | unit | default | since | |", "|---|---|---|---|---|---|"]
        lines = (row.line(since.get(f"{self.below}.{row.path}", NEXT)) for row in self.rows)
        return "\n".join([*head, *table, *lines, ""])


def _kind_section(kind: Kind, shared: Sequence[Row]) -> Section:
    """What a kind sets, without what it has in common with every kind that trains."""
    stop_at = {Evaluate.__name__: "see [evaluations](#evaluations)"}
    path, said = f"{_STAGES}.{kind.name}", _sentence(kind.help)
    if issubclass(kind.settings, Evaluate):
        names = [to_camel(one.field) for one in EVALUATIONS]
        own = Fields(kind.settings).rows(without=names)
        said += " And the [evaluations](#evaluations)."
        return Section(title=path, below=path, rows=own, said=said, since=True)
    rows = Fields(kind.settings, stop_at=stop_at).rows()
    own = [row for row in rows if row not in shared]
    if issubclass(kind.settings, Training):
        said += " And [what every training stage sets](#what-every-training-stage-sets)."
        changed = {row.path for row in shared} & {row.path for row in own}
        if changed:
            said += f" Different here: {', '.join(f'`{name}`' for name in sorted(changed))}."
    return Section(title=path, below=path, rows=own, said=said, since=True)


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}."


def exit_codes() -> str:
    """What a stage's process ends with, whose doing that is, and what follows on a cluster."""
    said: dict[int, list[str]] = {}
    for kind in vars(errors).values():
        if not (isinstance(kind, type) and issubclass(kind, FlorenceError)):
            continue
        if "exit_code" in vars(kind) and kind.exit_code != FlorenceError.exit_code:
            said.setdefault(kind.exit_code, []).append((kind.__doc__ or "").splitlines()[0])
    said[0], said[1] = ["Done."], ["Any other failure."]
    said[137] = ["A process was killed, for example for want of memory."]
    lines = ["| code | meaning | cause in the status | charged to |", "|---|---|---|---|"]
    for code, meanings in sorted(said.items()):
        cause = cause_of_exit(code)
        budget = budget_of(cause) if cause is not None else ""
        lines.append(f"| {code} | {' '.join(meanings)} | {cause or ''} | {budget} |")
    return "\n".join(
        [
            "\n## Exit codes of a stage\n",
            "`florencectl submit --local` ends with that of the stage that failed. What is charged "
            "to `application` or `infrastructure` is tried again as `runPolicy.retries` says, "
            "`final` is not. `florencectl` itself also ends with 4 (not authorised), 5 (waited too "
            "long) and 130 (interrupted).\n",
            *lines,
            "",
        ]
    )


def sections() -> list[Section]:
    """Every table of fields but that of the status."""
    stop_at = {Evaluate.__name__: "see [evaluations](#evaluations)"}
    shared = Fields(Training, stop_at=stop_at).rows()
    kinds = ", ".join(f"[{name}](#specstages{name.lower()})" for name in KINDS)
    return [
        Section(title="metadata", below="metadata", rows=Fields(Metadata).rows()),
        Section(title="spec", below="spec", rows=Fields(JobSpec).rows(without=("stages",))),
        Section(
            title=_STAGES,
            below=_STAGES,
            rows=Fields(StageBase).rows(),
            said=f"And exactly one of: {kinds}.",
        ),
        Section(
            title="What every training stage sets",
            below="training",
            rows=shared,
            said="Fields of each kind that trains.",
        ),
        *(_kind_section(kind, shared) for kind in KINDS.values()),
    ]


def evaluation_sections() -> list[Section]:
    """A table for every evaluation."""
    return [
        Section(
            title=f"evaluations.{to_camel(one.field)}[]",
            below=f"evaluations.{to_camel(one.field)}[]",
            rows=Fields(pkgutil.resolve_name(one.settings)).rows(),
            said=f"{_sentence(one.help)} For models of the task "
            f"{' or '.join(f'`{task}`' for task in one.tasks)}.",
            since=True,
        )
        for one in EVALUATIONS
    ]


def status_section() -> Section:
    """The table of the status."""
    rows = Fields(JobStatus).rows()
    said = "Written by the controller, never by users."
    return Section(title="status", below="status", rows=rows, said=said)


def reference() -> str:
    """The whole page."""
    since = {field: version for version, fields in released().items() for field in fields}
    parts = [
        _HEAD,
        *(section.text(since) for section in sections()),
        "\n## Evaluations\n\n"
        "Lists of an `evaluate` stage, and of `evaluation` in a training stage.\n",
        *(section.text(since) for section in evaluation_sections()),
        status_section().text(since),
        exit_codes(),
    ]
    return "".join(parts)


def every_field() -> list[str]:
    """All fields there are, as the record of releases calls them."""
    tables = [*sections(), *evaluation_sections(), status_section()]
    return [field for section in tables for field in section.fields()]


def released(record: Path = RECORD) -> dict[str, list[str]]:
    """Which release brought which fields."""
    found: dict[str, list[str]] = json.loads(record.read_text(encoding="utf-8"))
    return found


def note_release(version: str, record: Path = RECORD) -> None:
    """Note a release: it brings every field that no earlier one has; fields that are gone go."""
    fields = every_field()
    known = {
        older: [field for field in brought if field in fields]
        for older, brought in released(record).items()
        if older != version
    }
    old = {field for brought in known.values() for field in brought}
    known[version] = [field for field in fields if field not in old]
    record.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")


def main(arguments: Sequence[str]) -> int:
    """Write the page, or say that it is stale; 1 when it is."""
    paths = [Path(argument) for argument in arguments if not argument.startswith("--")]
    if "--release" in arguments:
        note_release(version_of(Path()))
    return write_or_check(dict.fromkeys(paths, reference()), check="--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
