from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from florence.data.images import decode
from florence.data.labelled import CaptionedImages, LabelledImages, image_batches
from florence.data.multi_label import MultiLabelImages
from florence.data.transforms import eval_transform
from florence.errors import DataError
from florence.storage import Storage
from tests.florence.data.making import (
    WORDS,
    picture,
    sample,
    write_samples,
    write_shards,
)

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)
VIEW = {"resolution": 16, "mean": MEAN, "std": STD}


def write_classes(folder: Path) -> dict[str, bytes]:
    """Three classes of images in sub-folders, beside files that are no images."""
    files = {
        f"{name}/{i}.png": picture(10 * c + i) for c, name in enumerate("abc") for i in range(c + 2)
    }
    files["b/deep/x.JPG"] = picture(99, kind="JPEG")
    for name, data in {**files, "b/notes.txt": b"?", "README.md": b"?", "top.png": b"?"}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return files


def test_class_folders(tmp_path: Path) -> None:
    files = write_classes(tmp_path)
    images = LabelledImages.open(str(tmp_path))
    names = sorted(files)
    assert images.class_names == ("a", "b", "c")
    assert images.labels.tolist() == ["abc".index(name[0]) for name in names]
    for (image, label), name in zip(images, names, strict=True):
        assert image.tobytes() == decode(files[name]).tobytes()
        assert label == "abc".index(name[0])


def test_labelled_shards(tmp_path: Path) -> None:
    rows = [sample(0), sample(1, cls=None), sample(2, txt=None, json=None), sample(4)]
    write_samples(tmp_path / "0.tar", rows)
    images = LabelledImages.open(str(tmp_path))
    assert (images.labels.tolist(), images.class_names) == ([0, 2, 1], None)
    got = [image.tobytes() for image, _ in images]
    assert got == [decode(picture(i)).tobytes() for i in (0, 2, 4)]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_transformed_images_in_order(tmp_path: Path, workers: int) -> None:
    write_shards(tmp_path, 11, 5)
    images = LabelledImages.open(str(tmp_path))
    transform = eval_transform(16, MEAN, STD)
    expected = torch.stack([transform(decode(picture(i))) for i in range(11)])
    got = list(images.batches(**VIEW, batch_size=4, workers=workers))
    assert [len(batch) for batch, _ in got] == [4, 4, 3]
    assert torch.equal(torch.cat([batch for batch, _ in got]), expected)
    assert torch.cat([labels for _, labels in got]).tolist() == [i % 3 for i in range(11)]
    share = list(images.batches(**VIEW, batch_size=4, workers=workers, indices=range(1, 11, 2)))
    assert torch.equal(torch.cat([batch for batch, _ in share]), expected[1::2])
    assert torch.cat([labels for _, labels in share]).tolist() == [i % 3 for i in range(1, 11, 2)]


def test_no_images_no_batches(tmp_path: Path) -> None:
    write_shards(tmp_path, 2, 2)
    images = LabelledImages.open(str(tmp_path)).images
    assert list(image_batches(images, **VIEW, batch_size=4, workers=2, indices=[])) == []


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_image_is_an_error_that_names_it(tmp_path: Path, workers: int) -> None:
    write_samples(tmp_path / "shards/7.tar", [sample(0), sample(1, png=b"?")])
    write_classes(tmp_path / "classes")
    (tmp_path / "classes/b/1.png").write_bytes(b"?")
    for folder, name in (("shards", "7/00001"), ("classes", "b/1.png")):
        images = LabelledImages.open(str(tmp_path / folder))
        with pytest.raises(DataError, match=f"{name}: broken image") as failure:
            list(images.batches(**VIEW, batch_size=2, workers=workers))
        assert str(tmp_path) in str(failure.value)


def test_shards_that_lost_samples_give_no_numbers(tmp_path: Path) -> None:
    write_shards(tmp_path, 8, 4)
    shard = tmp_path / "00001.tar"
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    for opened in (LabelledImages.open, CaptionedImages.from_shards, MultiLabelImages.open):
        with pytest.raises(DataError, match=f"1 of 2 shards are cut off.*{shard}: .*data check"):
            opened(str(tmp_path))


def test_images_without_a_class_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_samples(tmp_path / "a.tar", [sample(0), sample(1, cls=b"seven"), sample(2, cls=None)])
    assert len(LabelledImages.open(str(tmp_path))) == 1
    assert "2 of 3 images have no class number (.cls) and are left out" in caplog.text


def test_neither_shards_nor_classes(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(picture(0))
    with pytest.raises(DataError, match="neither shards"):
        LabelledImages.open(str(tmp_path))


def test_class_folders_on_every_storage(any_storage: Storage, s3_settings) -> None:
    for name in ("dog/1.png", "cat/1.png"):
        any_storage.write(name, picture(len(name)))
    images = LabelledImages.open(any_storage.uri, s3_settings)
    assert (images.class_names, images.labels.tolist()) == (("cat", "dog"), [0, 1])


# Captions


def test_captions_of_shards(tmp_path: Path) -> None:
    several = json.dumps({"captions": ["one", "two"], "caption": "one"}).encode()
    write_samples(
        tmp_path / "0.tar", [sample(0), sample(1, json=several), sample(2, txt=b" three ")]
    )
    images = CaptionedImages.from_shards(str(tmp_path))
    assert images.captions == ((WORDS[0],), ("one", "two"), ("three",))
    assert images.images.image(2).tobytes() == decode(picture(2)).tobytes()


def test_captions_of_a_folder(tmp_path: Path) -> None:
    for i, text in enumerate(["one\n\n two \n", "three"]):
        (tmp_path / f"{i}.png").write_bytes(picture(i))
        (tmp_path / f"{i}.txt").write_text(text)
    images = CaptionedImages.from_folder(str(tmp_path))
    assert images.captions == (("one", "two"), ("three",))
    assert images.images.image(1).tobytes() == decode(picture(1)).tobytes()
    (tmp_path / "1.txt").write_text(" \n")
    with pytest.raises(DataError, match=r"1\.txt holds no caption"):
        CaptionedImages.from_folder(str(tmp_path))
    (tmp_path / "1.txt").unlink()
    with pytest.raises(DataError, match=r"1\.png has no captions: write them to .*1\.txt"):
        CaptionedImages.from_folder(str(tmp_path))
    with pytest.raises(DataError, match="holds no images"):
        CaptionedImages.from_folder(str(tmp_path / "nothing"))


def karpathy(folder: Path, **document: object) -> str:
    path = folder / "dataset_coco.json"
    path.write_text(json.dumps(document))
    return str(path)


def image_entry(name: str, split: str, *captions: str, **more: str) -> dict[str, object]:
    sentences = [{"raw": c, "tokens": c.split(), "sentid": 0} for c in captions]
    return {"filename": name, "split": split, "sentences": sentences, **more}


def test_karpathys_json(tmp_path: Path) -> None:
    uri = karpathy(
        tmp_path,
        images=[
            image_entry("1.png", "test", "a cat", "A dog", filepath="val2014"),
            image_entry("2.png", "train", "x"),
            image_entry("3.png", "restval", "y"),
            image_entry("4.png", "test", "z"),
        ],
    )
    (tmp_path / "val2014").mkdir()
    (tmp_path / "val2014/1.png").write_bytes(picture(1))
    test = CaptionedImages.from_karpathy(uri)
    assert test.captions == (("a cat", "A dog"), ("z",))
    assert test.images.image(0).tobytes() == decode(picture(1)).tobytes()
    with pytest.raises(DataError, match=r"4\.png does not exist"):
        test.images.image(1)
    assert CaptionedImages.from_karpathy(uri, split="train").captions == (("x",), ("y",))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/4.png").write_bytes(picture(4))
    moved = CaptionedImages.from_karpathy(uri, images=str(tmp_path / "elsewhere"))
    assert moved.images.image(1).tobytes() == decode(picture(4)).tobytes()
    with pytest.raises(DataError, match="no image of split 'val'"):
        CaptionedImages.from_karpathy(uri, split="val")


@pytest.mark.parametrize("document", [{}, {"images": [{"split": "test"}]}, {"images": 3}])
def test_another_json_is_refused(tmp_path: Path, document: dict[str, object]) -> None:
    with pytest.raises(DataError, match="is not a Karpathy JSON"):
        CaptionedImages.from_karpathy(karpathy(tmp_path, **document))
