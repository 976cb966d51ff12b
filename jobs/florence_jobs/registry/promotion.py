"""Move an alias to another version of a model, if a gate allows it."""

from __future__ import annotations

from dataclasses import dataclass

from florence_jobs.registry.gates import Gate, Models, Verdict, parse_gate
from florence_jobs.registry.references import CHAMPION, Reference
from florence_jobs.registry.store import ModelRegistry, Version

GATE, RESULT = "florence.gate", "florence.gateResult"
"""Tags of a version: the gate that it last met, and what became of it."""


@dataclass(frozen=True, slots=True)
class Promotion:
    """What came of it: whose alias it is now."""

    candidate: Version
    before: Version | None
    verdict: Verdict
    moved: bool


def promote(
    registry: ModelRegistry,
    reference: Reference,
    *,
    alias: str = CHAMPION,
    gate: str | None = None,
    dry_run: bool = False,
) -> Promotion:
    """Let an alias stand for the version that a reference means, if the gate opens.

    The gate and what it found become tags of the version, whether it opens or not.

    Args:
        gate: a condition; see :mod:`florence_jobs.registry.gates`. None always opens.
        dry_run: only say what would happen.

    Raises:
        DataError: there is no such version.
        ConfigurationError: the gate is none, or names a metric that is not there.
    """
    candidate = registry.find(reference)
    aliases = registry.aliases(candidate.name)
    parsed = parse_gate(gate, frozenset({CHAMPION, alias, *aliases})) if gate else None
    before = _holder(registry, candidate.name, aliases, alias)
    verdict = _judged(registry, candidate, aliases, parsed)
    moved = verdict.passed and (before is None or before.version != candidate.version)
    if not dry_run:
        if parsed is not None:
            registry.tag(
                candidate,
                {GATE: parsed.text, RESULT: "passed" if verdict.passed else "failed"},
            )
        if moved:
            registry.set_alias(candidate, alias)
    return Promotion(candidate, before, verdict, moved)


def _judged(
    registry: ModelRegistry, candidate: Version, aliases: dict[str, str], gate: Gate | None
) -> Verdict:
    if gate is None:
        return Verdict(True, ())
    others = {}
    for alias in gate.aliases:
        holder = _holder(registry, candidate.name, aliases, alias)
        others[alias] = None if holder is None else holder.metrics
    return gate.judge(Models(candidate.metrics, others))


def _holder(
    registry: ModelRegistry, name: str, aliases: dict[str, str], alias: str
) -> Version | None:
    version = aliases.get(alias)
    return None if version is None else registry.find(Reference(name, version))
