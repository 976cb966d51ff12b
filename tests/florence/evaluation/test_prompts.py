"""Class names and templates from files, and what is wrong with them in one line."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from florence.config import PROMPT_SETS, Metric
from florence.config.storage import S3Settings
from florence.data.digits import WORDS
from florence.errors import ConfigurationError, DataError
from florence.evaluation.class_names import comparable
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
        ("classes: [cat\n", "is not valid YAML at line 2"),
        ("classes: [cat]\nclasses: [dog]", "has the key 'classes' twice, again at line 2"),
        ("classes: [cat]\n" * 100_000, "is more than 1,048,576 bytes long"),
        ("[" * 1_000, "is nested more than 64 deep"),
        ("classes: [cat]\nfolders: [a, b]", "2 folders for 1 classes"),
        ("classes: [cat, dog]\nfolders: [a, a]", "lists the folder 'a' twice"),
        ("classes: [cat]\nmetric: mAP", "metric is 'mAP': use one of accuracy"),
        ("classes: [cat]\nimages: 5", "images is 5: write"),
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


COUNTS = {
    "aircraft": (100, 2, 6_667, 3_333),
    "caltech101": (102, 34, 3_060, 6_085),
    "cars": (196, 8, 8_144, 8_041),
    "cifar10": (10, 18, 50_000, 10_000),
    "cifar100": (100, 18, 50_000, 10_000),
    "digits": (10, 8, 1_400, 397),
    "dtd": (47, 8, 3_760, 1_880),
    "flowers102": (102, 1, 2_040, 6_149),
    "food101": (101, 1, 75_750, 25_250),
    "imagenet": (1000, 80, 1_281_167, 50_000),
    "kinetics400": (400, 28, 240_000, 20_000),
    "kinetics600": (600, 28, 410_000, 29_000),
    "pets": (37, 1, 3_680, 3_669),
    "sun397": (397, 2, 19_850, 19_850),
    "voc2007": (20, 1, 5_011, 4_952),
}
"""Classes, templates, training and test images as CLIP's paper and repository list them."""


@pytest.mark.parametrize("name", PROMPT_SETS)
def test_the_data_sets_of_the_literature_are_built_in(name: str) -> None:
    prompts = load_prompts(name)
    counts = (len(prompts.classes), len(prompts.templates))
    assert (*counts, prompts.train_images, prompts.test_images) == COUNTS[name]
    assert len(set(prompts.templates)) == len(prompts.templates)
    assert prompts.title
    names = prompts.folders or prompts.classes
    assert len({comparable(name) for name in names}) == len(names)
    special = {
        "aircraft": Metric.MEAN_PER_CLASS,
        "pets": Metric.MEAN_PER_CLASS,
        "caltech101": Metric.MEAN_PER_CLASS,
        "flowers102": Metric.MEAN_PER_CLASS,
        "voc2007": Metric.MAP11,
    }
    assert prompts.metric is special.get(name, Metric.ACCURACY)


def test_the_list_of_sets_is_that_of_the_files() -> None:
    folder = resources.files("florence.evaluation") / "prompt_sets"
    files = {entry.name for entry in folder.iterdir() if entry.name.endswith(".yaml")}
    assert files == {f"{name}.yaml" for name in PROMPT_SETS}
    assert COUNTS.keys() == set(PROMPT_SETS)


def test_orders_are_those_of_the_data_sets() -> None:
    """Class numbers in shards come from the data sets, so the lists must be in their order."""
    sets = ("cifar100", "dtd", "food101", "kinetics400", "kinetics600", "sun397", "voc2007")
    for name in (*sets, "aircraft"):
        classes = load_prompts(name).classes
        assert list(classes) == sorted(classes), name
    for name in ("pets",):
        classes = load_prompts(name).classes
        assert list(classes) == sorted(classes, key=str.casefold)
    for name in ("imagenet", "caltech101"):
        folders = load_prompts(name).folders
        assert folders is not None
        assert list(folders) == sorted(folders)
    assert load_prompts("digits").classes == WORDS


def test_imagenets_names_are_open_clips() -> None:
    try:
        from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES
    except (ImportError, RuntimeError) as error:
        pytest.skip(f"open_clip does not import here: {error}")
    assert load_prompts("imagenet").classes == tuple(IMAGENET_CLASSNAMES)


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ConfigurationError, match=r"one of aircraft, caltech101.*voc2007"):
        load_prompts("food102")


def test_a_file_may_say_all_that_a_built_in_set_says(tmp_path: Path) -> None:
    path = tmp_path / "two.yaml"
    path.write_text(
        "title: Two\nmetric: meanPerClass\nimages: {train: 4, test: 2}\ntemplates: imagenet\n"
        "classes: [crane, crane]\nfolders: [n1, n2]\n"
    )
    prompts = load_prompts(str(path))
    assert prompts.folders == ("n1", "n2")
    assert (prompts.metric, prompts.test_images) == (Metric.MEAN_PER_CLASS, 2)
    assert len(prompts.templates) == 80
