"""Gates: conditions on a model's metrics, such as ``digits/top1 >= champion + 0.002``.

    gate       = comparison { "and" comparison }
    comparison = sum ( ">=" | ">" | "<=" | "<" ) sum
    sum        = product { ( "+" | "-" ) product }
    product    = factor { "*" factor }
    factor     = number | name | "(" sum ")" | "-" factor

A name is a metric of the model that is to be promoted; ``alias:metric`` is that metric of the
version an alias stands for, and an alias alone is the metric that its comparison names first. Names
may hold ``/``, ``-``, ``.`` and ``@``, so minus and plus stand between blanks. Nothing is evaluated
but this grammar.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from florence.errors import ConfigurationError
from florence_jobs.registry.references import CHAMPION
from florence_jobs.tracking.events import metric_key

_TOKEN = re.compile(
    r"\s*(?:(?P<number>\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)(?![\w/@:.])"
    r"|(?P<name>[A-Za-z_][\w/.@:-]*)|(?P<sign>>=|<=|[><()+*-]))"
)
_COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    ">": operator.gt,
    "<=": operator.le,
    "<": operator.lt,
}
MOST_CHARACTERS = 1000


@dataclass(frozen=True, slots=True)
class Models:
    """The metrics that a gate is about.

    Attributes:
        candidate: of the model that is to be promoted.
        others: by alias; ``None`` where no version has the alias.
    """

    candidate: Mapping[str, float]
    others: Mapping[str, Mapping[str, float] | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a gate says: whether it opens, and a line for each of its comparisons."""

    passed: bool
    lines: tuple[str, ...]


class _NobodyYetError(Exception):
    """An alias that no version has."""


@dataclass(frozen=True, slots=True)
class _Name:
    """A metric: of the candidate where ``alias`` is none."""

    metric: str | None
    alias: str | None = None


_Term = float | _Name | tuple[str, "_Term", "_Term"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """One comparison of a gate."""

    text: str
    left: _Term
    sign: str
    right: _Term

    def holds(self, models: Models) -> tuple[bool, str]:
        """Whether it holds, and a line that says with which values.

        A comparison with an alias that no version has holds: the first model has no rival.

        Raises:
            ConfigurationError: a model has no such metric; names those it has.
        """
        implied = next((n.metric for n in _names(self.left) if n.metric), None)
        implied = implied or next((n.metric for n in _names(self.right) if n.metric), None)
        try:
            left, right = (_value(term, models, implied) for term in (self.left, self.right))
        except _NobodyYetError as nobody:
            return True, f"{self.text}: holds, since no version is '{nobody}' yet"
        passed = _COMPARE[self.sign](left, right)
        word = "holds" if passed else "does not hold"
        return passed, f"{self.text}: {word} ({left:.6g} {self.sign} {right:.6g})"


@dataclass(frozen=True, slots=True)
class Gate:
    """A parsed gate."""

    text: str
    comparisons: tuple[Comparison, ...]

    @property
    def aliases(self) -> frozenset[str]:
        """The aliases whose metrics it needs."""
        terms = [term for each in self.comparisons for term in (each.left, each.right)]
        return frozenset(n.alias for term in terms for n in _names(term) if n.alias is not None)

    def judge(self, models: Models) -> Verdict:
        """Whether the candidate passes.

        Raises:
            ConfigurationError: a metric that the gate names is not there.
        """
        results = [each.holds(models) for each in self.comparisons]
        return Verdict(all(passed for passed, _ in results), tuple(line for _, line in results))


def parse_gate(text: str, aliases: frozenset[str] = frozenset({CHAMPION})) -> Gate:
    """A gate as a user writes it.

    Args:
        aliases: words that stand for the metric of another version when they stand alone.

    Raises:
        ConfigurationError: it is none; says where it stops making sense.
    """
    if len(text) > MOST_CHARACTERS:
        raise ConfigurationError(f"a gate has at most {MOST_CHARACTERS} characters")
    return _Parser(text, aliases).gate()


class _Parser:
    """Recursive descent over the tokens of one gate."""

    def __init__(self, text: str, aliases: frozenset[str]) -> None:
        self._text, self._aliases = text, aliases
        self._tokens: list[tuple[str, str, int]] = []
        position = 0
        while position < len(text.rstrip()):
            match = _TOKEN.match(text, position)
            if match is None:
                raise self._wrong(position)
            kind = match.lastgroup or ""
            self._tokens.append((kind, match[kind], match.start(kind)))
            position = match.end()
        self._next = 0

    def gate(self) -> Gate:
        comparisons = [self._comparison()]
        while self._take("name", "and"):
            comparisons.append(self._comparison())
        if self._next < len(self._tokens):
            raise self._wrong(self._tokens[self._next][2])
        return Gate(self._text.strip(), tuple(comparisons))

    def _comparison(self) -> Comparison:
        start = self._position()
        left = self._sum(0)
        sign = next((each for each in _COMPARE if self._take("sign", each)), None)
        if sign is None:
            raise self._wrong(self._position(), "a comparison (>=, >, <= or <)")
        right = self._sum(0)
        comparison = Comparison(self._text[start : self._position()].strip(), left, sign, right)
        if not any(n.metric for term in (left, right) for n in _names(term)):
            raise ConfigurationError(
                f"gate '{self._text}': '{comparison.text}' names no metric of the model: write, "
                "say, digits/top1 >= champion"
            )
        return comparison

    def _sum(self, depth: int) -> _Term:
        return self._chain("+-", lambda: self._chain("*", lambda: self._factor(depth)))

    def _chain(self, signs: str, part: Callable[[], _Term]) -> _Term:
        term = part()
        while sign := next((each for each in signs if self._take("sign", each)), None):
            term = (sign, term, part())
        return term

    def _factor(self, depth: int) -> _Term:
        if depth > 20:
            raise ConfigurationError(f"gate '{self._text[:40]}…' is nested too deeply")
        position = self._position()
        if self._take("sign", "-"):
            return ("-", 0.0, self._factor(depth + 1))
        if self._take("sign", "("):
            inside = self._sum(depth + 1)
            if not self._take("sign", ")"):
                raise self._wrong(self._position(), "')'")
            return inside
        kind, text = self._tokens[self._next][:2] if self._next < len(self._tokens) else ("", "")
        self._next += 1
        if kind == "number":
            return float(text)
        if kind == "name" and text != "and":
            return self._name(text, position)
        raise self._wrong(position, "a number or the name of a metric")

    def _name(self, text: str, position: int) -> _Name:
        if text in self._aliases:
            return _Name(None, text)
        alias, colon, metric = text.partition(":")
        if not colon:
            return _Name(metric_key(text))
        if alias not in self._aliases or not metric:
            known = ", ".join(f"{each}:METRIC" for each in sorted(self._aliases))
            raise self._wrong(position, f"a metric, or {known}")
        return _Name(metric_key(metric), alias)

    def _take(self, kind: str, text: str) -> bool:
        found = self._tokens[self._next][:2] if self._next < len(self._tokens) else None
        if found != (kind, text):
            return False
        self._next += 1
        return True

    def _position(self) -> int:
        return self._tokens[self._next][2] if self._next < len(self._tokens) else len(self._text)

    def _wrong(self, position: int, wanted: str = "a comparison of metrics") -> ConfigurationError:
        rest = self._text[position:].strip()
        found = f"'{rest[:40]}'" if rest else "its end"
        return ConfigurationError(f"gate '{self._text}': {found} is not {wanted}")


def _names(term: _Term) -> list[_Name]:
    if isinstance(term, _Name):
        return [term]
    if isinstance(term, tuple):
        return [*_names(term[1]), *_names(term[2])]
    return []


def _value(term: _Term, models: Models, implied: str | None) -> float:
    if isinstance(term, _Name):
        return _metric(term, models, implied)
    if not isinstance(term, tuple):
        return term
    sign, left, right = term[0], *(_value(part, models, implied) for part in term[1:])
    return float({"+": operator.add, "-": operator.sub, "*": operator.mul}[sign](left, right))


def _metric(name: _Name, models: Models, implied: str | None) -> float:
    metric = name.metric or implied or ""
    whose = "the model" if name.alias is None else f"the {name.alias}"
    known = models.candidate if name.alias is None else models.others.get(name.alias)
    if known is None:
        raise _NobodyYetError(name.alias)
    values: Mapping[str, float] = known
    if metric not in values:
        has = ", ".join(sorted(values)) or "none"
        raise ConfigurationError(f"{whose} has no metric '{metric}': it has {has}")
    return values[metric]
