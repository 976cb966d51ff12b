"""Classes of folders and files find those of the prompts by name."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from florence.errors import ConfigurationError
from florence.evaluation.class_names import class_numbers, comparable
from florence.evaluation.prompts import Prompts, load_prompts


def prompts(*classes: str, folders: tuple[str, ...] | None = None) -> Prompts:
    return Prompts(classes, ("{}",), folders=folders)


def numbers(names: list[str], chosen: Prompts) -> list[int]:
    return class_numbers(names, chosen, field="prompts", data="/data").tolist()


@given(st.permutations(["apple_pie", "Crème-Brûlée", "colts_foot", "F-16A_B", "hot dog"]))
def test_order_spelling_and_case_do_not_matter(names: list[str]) -> None:
    chosen = prompts("hot dog", "colt's foot", "F-16A/B", "crème brûlée", "Apple Pie")
    for name, number in zip(names, numbers(names, chosen), strict=True):
        assert comparable(chosen.classes[number]) == comparable(name)


def test_sorted_folders_are_not_taken_for_the_prompts_order() -> None:
    """Counts agree, so a comparison of counts would call every cat a dog."""
    assert numbers(["bird", "cat", "dog"], prompts("dog", "bird", "cat")) == [1, 2, 0]


def test_folders_may_be_called_by_the_data_sets_own_names() -> None:
    imagenet = load_prompts("imagenet")
    assert imagenet.folders is not None
    shuffled = np.random.default_rng(0).permutation(1000)
    names = [imagenet.folders[i] for i in shuffled]
    assert numbers(names, imagenet) == shuffled.tolist()
    # Two classes share a name, which is no problem in the order of the prompts.
    assert numbers(list(imagenet.classes), imagenet) == list(range(1000))


def test_folders_called_by_numbers_are_class_numbers() -> None:
    names = sorted(str(n) for n in range(12))
    assert names[:3] == ["0", "1", "10"]
    assert numbers(names, prompts(*(f"class {n}" for n in range(12)))) == [int(n) for n in names]
    assert numbers(["2", "0"], prompts("a", "b", "c")) == [2, 0]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["cat", "dgo"], "only the data has 'dgo', only the prompts have 'dog'"),
        (["cat"], "1 class folders or names and the prompts 2 .* nothing, .* have 'dog'"),
        (["cat", "dog", "cow"], "only the data has 'cow', only the prompts have nothing"),
        (["cat", "Cat"], "only the prompts have 'dog'"),
        (["0", "2"], "only the data has '0', '2'"),
        ([str(n) + "x" for n in range(9)], "'4x' and 4 more"),
    ],
)
def test_other_names_are_refused_and_both_sides_shown(names: list[str], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        numbers(names, prompts("cat", "dog"))
    assert "/data" in str(caught.value)
    assert "\n" not in str(caught.value)
