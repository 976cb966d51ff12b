from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from florence.errors import ConfigurationError
from florence.text.templates import BUILTIN, GAP, IMAGENET, draw, load_templates, render


def test_the_imagenet_list_is_clips() -> None:
    try:
        from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES
    except Exception as error:  # it needs torchvision, which needs a matching torch
        pytest.skip(f"open_clip does not import here: {error}")
    assert len(IMAGENET) == 80
    assert [render(t, "cat") for t in IMAGENET] == [t("cat") for t in OPENAI_IMAGENET_TEMPLATES]


@pytest.mark.parametrize("name", BUILTIN)
def test_built_in_lists_have_a_gap_and_no_twins(name: str) -> None:
    templates = load_templates(name)
    assert len(set(templates)) == len(templates)
    assert all(t.count(GAP) == 1 for t in templates)


def test_a_file_of_templates(tmp_path: Path) -> None:
    path = tmp_path / "templates.txt"
    path.write_text("# comment\n\na {} in the wild\n  {} again {}\n")
    assert load_templates(str(path)) == ("a {} in the wild", "{} again {}")
    assert render("{} again {}", "cat") == "cat again cat"


@pytest.mark.parametrize(
    ("content", "reason"), [("no gap\n", "line 1"), ("# only\n", "no template"), (None, "neither")]
)
def test_a_wrong_file_names_the_field(tmp_path: Path, content: str | None, reason: str) -> None:
    path = tmp_path / "templates.txt"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigurationError, match=rf"text\.templates: .*{reason}"):
        load_templates(str(path))


@given(st.integers(0, 2**32), st.integers(0, 1000), st.text(max_size=20), st.integers(1, 90))
def test_draw_is_a_function_of_its_arguments(seed: int, epoch: int, key: str, n: int) -> None:
    assert draw(seed, epoch, key, n) == draw(seed, epoch, key, n)
    assert 0 <= draw(seed, epoch, key, n) < n


def test_draw_is_uniform_over_keys_and_over_epochs() -> None:
    by_key = Counter(draw(3, 0, f"00000/{i}", 8) for i in range(8000))
    by_epoch = Counter(draw(3, epoch, "00000/1", 8) for epoch in range(8000))
    for counts in (by_key, by_epoch):
        assert chisquare([counts[t] for t in range(8)]).pvalue > 1e-4


def test_templates_are_read_from_s3(s3_storage: Any, s3_settings: Any) -> None:
    """A cluster admits them, so a stage must be able to read them."""
    s3_storage.write("lists/templates.txt", b"# two\na {}.\n\nthe {}\n")
    uri = s3_storage.url("lists/templates.txt")
    assert load_templates(uri, s3=s3_settings) == ("a {}.", "the {}")
    with pytest.raises(ConfigurationError, match=r"text\.templates: .*none\.txt"):
        load_templates(s3_storage.url("lists/none.txt"), s3=s3_settings)
    s3_storage.write("lists/wrong.txt", b"a cat\n")
    with pytest.raises(ConfigurationError, match=r"line 1 of 's3://.*' has no \{\}"):
        load_templates(s3_storage.url("lists/wrong.txt"), s3=s3_settings)
