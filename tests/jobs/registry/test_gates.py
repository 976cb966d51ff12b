"""The grammar of gates, against Python's own arithmetic, and what it refuses."""

from __future__ import annotations

import contextlib
import operator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from florence.errors import ConfigurationError
from florence_jobs.registry.gates import MOST_CHARACTERS, Models, parse_gate

METRICS = {"digits/top1": 0.84, "zero-shot/top5": 0.99, "coco/imageToText/R_at_1": 0.5, "loss": 2.0}
CHAMPION = {"digits/top1": 0.83, "loss": 2.5}


def judged(text: str, champion: dict[str, float] | None = CHAMPION) -> bool:
    return parse_gate(text).judge(Models(METRICS, {"champion": champion})).passed


@pytest.mark.parametrize(
    ("text", "passed"),
    [
        ("digits/top1 >= champion + 0.002", True),
        ("digits/top1 >= champion + 0.02", False),
        ("digits/top1 >= champion and loss < champion", True),
        ("digits/top1 >= champion and loss < champion - 1", False),
        ("champion < digits/top1", True),
        ("digits/top1 >= champion:digits/top1", True),
        ("zero-shot/top5 > 0.9", True),
        ("coco/imageToText/R@1 >= 0.5", True),
        ("loss <= 1.0 * champion", True),
        ("digits/top1 - champion > 0.005", True),
        ("(digits/top1 - 0.8) * 100 >= 4 - -0.0001", False),
        ("digits/top1>=champion+0.002", True),
        ("loss < 2e1", True),
        ("loss < -2e-1", False),
    ],
)
def test_a_gate_says_what_it_reads_like(text: str, passed: bool) -> None:
    assert judged(text) is passed


def test_the_first_model_has_no_rival_and_still_has_to_be_good() -> None:
    gate = parse_gate("digits/top1 >= champion + 0.002 and digits/top1 > 0.9")
    verdict = gate.judge(Models(METRICS, {"champion": None}))
    assert not verdict.passed
    assert verdict.lines == (
        "digits/top1 >= champion + 0.002: holds, since no version is 'champion' yet",
        "digits/top1 > 0.9: does not hold (0.84 > 0.9)",
    )
    assert judged("digits/top1 >= champion + 0.002", champion=None)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "its end is not a number or the name of a metric"),
        ("digits/top1", "its end is not a comparison"),
        ("digits/top1 >= champion + ", "its end is not a number"),
        ("digits/top1 == 1", "'== 1' is not a comparison of metrics"),
        ("digits/top1 >= (champion + 1", "its end is not ')'"),
        ("digits/top1 >= 1 or loss < 1", "'or loss < 1' is not a comparison of metrics"),
        ("1 < 2", "names no metric"),
        ("champion > 2", "names no metric"),
        ("other:loss < 2", "'other:loss < 2' is not a metric, or champion:METRIC"),
        ("__import__('os').system('true') > 0", "('os')"),
        ("loss < 0x10", "'0x10'"),
        ("loss < " + "(" * 60 + "1" + ")" * 60, "nested too deeply"),
        ("loss < 1" + " " * MOST_CHARACTERS, "at most 1000 characters"),
    ],
)
def test_what_is_no_gate_is_refused_with_where(text: str, said: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_gate(text)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_metric_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(ConfigurationError, match=r"the model has no metric 'top1': it has coco/"):
        judged("top1 > 0.5")
    with pytest.raises(ConfigurationError, match=r"the champion has no metric 'zero-shot/top5'"):
        judged("zero-shot/top5 > champion")


NAMES = {"a": "digits/top1", "b": "loss", "c": "champion:digits/top1"}
VALUES = {"a": 0.84, "b": 2.0, "c": 0.83}
NUMBERS = st.integers(0, 999).map(lambda n: n / 100)


def terms() -> st.SearchStrategy[Any]:
    """Nested sums and products: the text of ours, that of Python's."""
    leaf = st.one_of(
        NUMBERS.map(lambda n: (f"{n:g}", f"{n:g}")),
        st.sampled_from(sorted(NAMES)).map(lambda name: (NAMES[name], name)),
    )
    return st.recursive(
        leaf,
        lambda inner: st.one_of(
            st.tuples(inner, st.sampled_from("+-*"), inner).map(
                lambda t: (f"({t[0][0]} {t[1]} {t[2][0]})", f"({t[0][1]} {t[1]} {t[2][1]})")
            ),
            st.tuples(inner, st.sampled_from("+-*"), inner).map(
                lambda t: (f"{t[0][0]} {t[1]} {t[2][0]}", f"{t[0][1]} {t[1]} {t[2][1]}")
            ),
        ),
        max_leaves=8,
    )


COMPARE = {">=": operator.ge, ">": operator.gt, "<=": operator.le, "<": operator.lt}


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(left=terms(), sign=st.sampled_from(sorted(COMPARE)), right=terms())
def test_arithmetic_is_that_of_python(
    left: tuple[str, str], sign: str, right: tuple[str, str]
) -> None:
    text = f"0 * loss + {left[0]} {sign} {right[0]}"
    expected = eval(f"0 * b + {left[1]} {sign} {right[1]}", {}, dict(VALUES))
    assert judged(text) is expected


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(alphabet="ab/@:.-+*()<>= 0123456789_'\"[]{}\\\n;", max_size=40))
def test_any_other_text_is_refused_or_judged_but_never_breaks(text: str) -> None:
    with contextlib.suppress(ConfigurationError):
        parse_gate(text).judge(Models({"a": 1.0, "b": 2.0}, {"champion": None}))
