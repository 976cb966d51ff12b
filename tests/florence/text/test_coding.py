"""Texts as ids and back: CLIP's coding, and RoBERTa's by files as transformers writes and reads."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

from florence.errors import DataError
from florence.text.coding import ClipCoder, RobertaCoder, coded, read_roberta_coder
from florence.text.tokenizer import tokenize_lists
from tests.florence.models.references import reference

TEXTS = [
    "A man is riding a wave, isn't he?",
    "two  dogs\nand 3.5 cats",
    "",
    "naïve café – 東京",
    "x" * 5000,
    "the </s> end <mask> and <end_of_text>",
]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small RoBERTa coding, trained and written by the ``tokenizers`` library."""
    tokenizers = reference("tokenizers")
    folder = tmp_path_factory.mktemp("roberta")
    trained = tokenizers.ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trained.train_from_iterator([*TEXTS[:4], "dogs and cats ride"], 400, 1, False, special)
    trained.save_model(str(folder))
    return folder


def test_clips_coding_is_the_towers() -> None:
    coder = ClipCoder()
    for text in TEXTS:
        assert [coded(coder, text, 20)] == tokenize_lists([text], 20)
    ids = coded(coder, "two dogs, isn't it?", 20)
    assert coder.decode(ids) == "two dogs , isn 't it ?"
    assert coder.words("isn't two") == [coder.words("isn't")[0], coder.words("two")[0]]
    with pytest.raises(ValueError, match="leaves no room"):
        coded(coder, "x", 1)


def test_robertas_coding_equals_transformers(files: Path) -> None:
    transformers = reference("transformers")
    theirs = transformers.RobertaTokenizerFast(
        vocab=str(files / "vocab.json"), merges=str(files / "merges.txt")
    )
    coder = read_roberta_coder(str(files))
    for text in TEXTS[:5]:
        expected = theirs(text, truncation=True, max_length=20)["input_ids"]
        assert coded(coder, text, 20) == expected
        assert coder.decode(expected) == theirs.decode(expected, skip_special_tokens=True).strip()
    assert (coder.start, coder.end) == (theirs.bos_token_id, theirs.eos_token_id)
    assert (coder.padding, coder.mask) == (theirs.pad_token_id, theirs.mask_token_id)


def test_no_text_ends_or_hides_itself(files: Path) -> None:
    coder = read_roberta_coder(str(files))
    ids = coded(coder, TEXTS[5], 60)
    assert [i for i, token in enumerate(ids) if coder.is_special(token)] == [0, len(ids) - 1]


def test_words_are_whole(files: Path) -> None:
    coder = read_roberta_coder(str(files))
    words = coder.words("dogs ride, unheardof")
    assert [coder.decode(word) for word in words] == ["dogs", "ride", ",", "unheardof"]
    assert len(words[-1]) > 1


def test_it_travels_in_a_card_and_between_processes(files: Path) -> None:
    coder = read_roberta_coder(str(files))
    for other in (
        RobertaCoder.unpacked(coder.packed(), "a card"),
        pickle.loads(pickle.dumps(coder)),
    ):
        assert other.words(TEXTS[0]) == coder.words(TEXTS[0])
    with pytest.raises(DataError, match="a card: its tokenizer cannot be read"):
        RobertaCoder.unpacked("nonsense", "a card")


def test_tokenizer_json_is_read_first(files: Path, tmp_path: Path) -> None:
    coder = read_roberta_coder(str(files))
    (tmp_path / "tokenizer.json").write_text(coder.document)
    assert read_roberta_coder(str(tmp_path)).words(TEXTS[0]) == coder.words(TEXTS[0])


def test_other_files_are_refused_by_name(files: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither tokenizer.json nor vocab.json"):
        read_roberta_coder(str(tmp_path))
    (tmp_path / "vocab.json").write_text((files / "vocab.json").read_text())
    (tmp_path / "merges.txt").write_text("one two three\n")
    with pytest.raises(DataError, match="no byte-pair coding"):
        read_roberta_coder(str(tmp_path))
    document = json.loads(read_roberta_coder(str(files)).document)
    document["added_tokens"] = [t for t in document["added_tokens"] if t["content"] != "<mask>"]
    document["model"]["vocab"].pop("<mask>")
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(DataError, match="has no '<mask>'"):
        read_roberta_coder(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match="not a tokenizer"):
        read_roberta_coder(str(tmp_path))
