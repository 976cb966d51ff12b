"""Class names and templates from files, and what is wrong with them in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from florence.config.storage import S3Settings
from florence.errors import ConfigurationError, DataError
from florence.evaluation.prompts import load_prompts
from florence.storage import Storage
from florence.text.templates import DIGITS


def test_the_digits_are_built_in() -> None:
    prompts = load_prompts("digits")
    assert prompts.classes[0] == "zero"
    assert prompts.classes[9] == "nine"
    assert len(prompts.classes) == 10
    assert prompts.templates == tuple(DIGITS)


def test_a_file_keeps_its_order(tmp_path: Path) -> None:
    path = tmp_path / "pets.yaml"
    path.write_text("classes: [sphynx, 'no', beagle]\ntemplates: ['a photo of a {}.', '{}']\n")
    prompts = load_prompts(str(path))
    assert prompts.classes == ("sphynx", "no", "beagle")
    assert prompts.templates == ("a photo of a {}.", "{}")
    path.write_text("classes: [a, b]\n")
    assert load_prompts(str(path)).templates == ("{}",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[a, b]", "must hold two lists"),
        ("", "must hold two lists"),
        ("classes: []", "classes must be a list that is not empty"),
        ("classes: cat", "classes must be a list"),
        ("classes: [cat, no]", r"classes\[1\] is False, not a text: put it in quotes"),
        ("classes: [cat, dog, cat]", "lists the class 'cat' twice"),
        ("classes: [cat]\ntemplates: [a photo]", r"templates\[0\] 'a photo' has no \{\}"),
        ("classes: [cat]\ntemplate: ['{}']", "unknown field 'template'"),
        ("classes: [cat\n", "is not YAML"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "prompts.yaml"
    path.write_text(content)
    with pytest.raises(ConfigurationError, match=message) as caught:
        load_prompts(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cannot read '.*nowhere\.yaml': No such file"):
        load_prompts(str(tmp_path / "nowhere.yaml"))


def test_a_file_may_lie_on_s3(s3_storage: Storage, s3_settings: S3Settings) -> None:
    s3_storage.write("pets.yaml", b"classes: [cat, dog]\n")
    assert load_prompts(s3_storage.url("pets.yaml"), s3_settings).classes == ("cat", "dog")
    with pytest.raises(DataError, match=r"nowhere\.yaml does not exist"):
        load_prompts(s3_storage.url("nowhere.yaml"), s3_settings)
