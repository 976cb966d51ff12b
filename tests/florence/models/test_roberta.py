"""RoBERTa equals transformers' own, reads its files, and refuses others'."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from florence.errors import DataError
from florence.models.bert import mask_of
from florence.models.roberta import Roberta, RobertaSizes, read_roberta
from tests.florence.models.references import randomise, reference

SIZES = RobertaSizes(vocabulary=60, width=24, layers=3, heads=4, hidden=40, positions=20)


def theirs(**changes: Any) -> Any:
    transformers = reference("transformers")
    config = transformers.RobertaConfig(
        vocab_size=60,
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=40,
        max_position_embeddings=20,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=1,
        hidden_act="gelu",
        **changes,
    )
    model = transformers.RobertaModel(config, add_pooling_layer=False).eval()
    randomise(model)
    return model


def texts() -> tuple[torch.Tensor, torch.Tensor]:
    """Four texts of 18 tokens, the longest that the positions allow, to 2."""
    ids = torch.randint(2, 60, (4, 18), generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([18, 7, 2, 12])
    return ids.masked_fill(~mask_of(lengths, 18), 1), lengths


def folder(path: Path, **changes: Any) -> Path:
    """The files that transformers writes of a model."""
    model = theirs()
    model.save_pretrained(path)
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, **changes}))
    return path


def test_it_equals_transformers_on_random_weights() -> None:
    expected, (ids, lengths) = theirs(), texts()
    ours = Roberta(SIZES, dropout=0.1).eval()
    state = {k: v for k, v in expected.state_dict().items() if "position_ids" not in k}
    ours.load_state_dict({k: v for k, v in state.items() if "token_type_ids" not in k})
    mask = mask_of(lengths, 18)
    with torch.no_grad():
        hidden = expected(input_ids=ids, attention_mask=mask.long()).last_hidden_state
        found = ours(ids, mask)
    torch.testing.assert_close(found[mask], hidden[mask], rtol=0, atol=1e-5)


def test_it_equals_transformers_decoder_and_steps_alike() -> None:
    expected, (ids, _) = theirs(is_decoder=True), texts()
    ids = ids[:1].expand(3, -1).clone()
    ids[:, 5:] += torch.arange(3)[:, None]
    ids.clamp_(max=59)
    ours = Roberta(SIZES).eval()
    ours.load_state_dict({k: v for k, v in expected.state_dict().items() if not k.endswith("_ids")})
    mask = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        hidden = expected(input_ids=ids).last_hidden_state
        found = ours(ids, mask, causal=True)
        torch.testing.assert_close(found, hidden, rtol=0, atol=1e-5)
        past: list[Any] = [None] * SIZES.layers
        for position in range(ids.shape[1]):
            token, past = ours.step(ids[:, position], position, past)
            torch.testing.assert_close(token[:, 0], found[:, position], rtol=0, atol=1e-5)


def test_padding_changes_nothing_and_an_empty_text_is_one() -> None:
    ids, lengths = texts()
    model = Roberta(SIZES).eval()
    randomise(model)
    with torch.no_grad():
        together = model(ids, mask_of(lengths, 18))
        for row, length in enumerate(lengths.tolist()):
            alone = model(ids[row : row + 1, :length], torch.ones(1, length, dtype=torch.bool))
            torch.testing.assert_close(together[row, :length], alone[0], rtol=0, atol=1e-5)


def test_published_files_are_read_with_and_without_heads(tmp_path: Path) -> None:
    files = read_roberta(str(folder(tmp_path / "plain")))
    assert files.sizes == SIZES
    model = Roberta(files.sizes)
    model.load_state_dict(files.state)
    wrapped = {f"roberta.{name}": value for name, value in files.state.items()}
    other = folder(tmp_path / "headed")
    save_file({**wrapped, "lm_head.bias": torch.zeros(60)}, other / "model.safetensors")
    again = read_roberta(str(other))
    assert all(torch.equal(again.state[name], files.state[name]) for name in files.state)


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", hidden_size=32)
    with pytest.raises(DataError, match=r"model.safetensors: '.*' is \(.*24.*\) instead of \(.*32"):
        read_roberta(str(path))
    with pytest.raises(DataError, match="hidden_act is 'relu': only gelu"):
        read_roberta(str(folder(tmp_path / "b", hidden_act="relu")))
    with pytest.raises(DataError, match=r"config.json: model_type is not 'roberta'"):
        read_roberta(str(folder(tmp_path / "c", model_type="bert")))
    (path / "model.safetensors").rename(path / "pytorch_model.bin")
    with pytest.raises(DataError, match=r"a pickle \(pytorch_model.bin\) is not read"):
        read_roberta(str(path))
    cut = folder(tmp_path / "d")
    (cut / "model.safetensors").write_bytes((cut / "model.safetensors").read_bytes()[:-9])
    with pytest.raises(DataError, match="not a whole safetensors file"):
        read_roberta(str(cut))
    with pytest.raises(DataError, match=r"config.json does not exist"):
        read_roberta(str(tmp_path / "nowhere"))
