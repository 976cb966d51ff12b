"""The fusion: its size, its symmetry, padding, decoding from left to right, checkpointing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from florence.config import ActivationCheckpointing
from florence.models.bert import mask_of
from florence.models.fusion import IMAGE, TEXT, AnswerHead, Fusion, FusionSizes, MatchHead, WordHead
from florence.models.meta import on_meta
from tests.florence.models.references import randomise, reference

SIZES = FusionSizes(layers=3, width=16, heads=2, hidden=24)


def fusion(*, causal: bool = False, **options: Any) -> Fusion:
    model = Fusion(
        SIZES, text_width=12, image_width=12, causal=causal, **{"dropout": 0.0, **options}
    )
    randomise(model)
    return model.eval()


def inputs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(3, 7, 12, generator=generator)
    image = torch.randn(3, 5, 12, generator=generator)
    return text, mask_of(torch.tensor([7, 2, 4]), 7), image


def test_the_two_stacks_have_the_papers_parameters() -> None:
    with on_meta():
        model = Fusion(FusionSizes(), text_width=768, image_width=2048)
    stacks = [*model.text_layers.parameters(), *model.image_layers.parameters()]
    assert sum(parameter.numel() for parameter in stacks) == 113_421_312
    assert sum(p.numel() for p in MatchHead(1536).parameters()) == 2 * 1536 + 2
    assert AnswerHead(1536, 3129)(torch.zeros(1, 1536)).shape == (1, 3129)
    assert WordHead(8, 50)(torch.zeros(2, 8)).shape == (2, 50)


def test_swapping_the_streams_swaps_the_outputs() -> None:
    model, (text, _, image) = fusion(), inputs()
    swapped = fusion()
    state = model.state_dict()
    renamed = {}
    for name, value in state.items():
        stream, _, rest = name.partition("_")
        other = {"text": "image", "image": "text"}.get(stream, stream)
        renamed[f"{other}_{rest}"] = value.flip(0) if name.startswith("modality") else value
    assert (TEXT, IMAGE) == (0, 1)
    swapped.load_state_dict(renamed)
    with torch.no_grad():
        all_seen = torch.ones(3, 7, dtype=torch.bool)
        fused = model(text, all_seen, image)
        mirrored = swapped(image, torch.ones(3, 5, dtype=torch.bool), text)
    torch.testing.assert_close(mirrored.text, fused.image, rtol=0, atol=1e-5)
    torch.testing.assert_close(mirrored.image, fused.text, rtol=0, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
def test_padding_changes_nothing(causal: bool) -> None:
    model, (text, mask, image) = fusion(causal=causal), inputs()
    with torch.no_grad():
        fused = model(text, mask, image)
        changed = model(text.masked_fill(~mask[..., None], 9.0), mask, image)
        for row, length in enumerate(mask.sum(1).tolist()):
            one = slice(row, row + 1)
            alone = model(text[one, :length], mask[one, :length], image[one])
            torch.testing.assert_close(fused.text[row, :length], alone.text[0], atol=1e-5, rtol=0)
            torch.testing.assert_close(fused.image[row], alone.image[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(fused.text[mask], changed.text[mask], atol=1e-5, rtol=0)


def test_a_decoder_sees_no_later_word_and_steps_alike() -> None:
    model, (text, _, image) = fusion(causal=True), inputs()
    seen = torch.ones(3, 7, dtype=torch.bool)
    with torch.no_grad():
        whole = model(text, seen, image).text
        later = text.clone()
        later[:, 4:] = 5.0
        torch.testing.assert_close(model(later, seen, image).text[:, :4], whole[:, :4])
        other = model.image_key_values(image)
        past: list[Any] = [None] * SIZES.layers
        for position in range(7):
            token, past = model.step(text[:, position : position + 1], past, other)
            torch.testing.assert_close(token[:, 0], whole[:, position], atol=1e-5, rtol=0)


def test_where_words_look_sums_to_one() -> None:
    model, (text, mask, image) = fusion(), inputs()
    with torch.no_grad():
        looked = model.looked_at(text, mask, image)
    assert looked.shape == (3, 7, 5)
    torch.testing.assert_close(looked.sum(-1), torch.ones(3, 7))


def test_checkpointing_changes_no_gradient() -> None:
    text, mask, image = inputs()
    grads = []
    for checkpointing in (ActivationCheckpointing.NONE, ActivationCheckpointing.FULL):
        model = fusion(checkpointing=checkpointing).train()
        model.pooled(model(text, mask, image), mask.sum(1) - 1).sum().backward()
        grads.append([parameter.grad for parameter in model.parameters()])
    assert all(torch.equal(one, two) for one, two in zip(*grads, strict=True))


def test_a_layer_equals_transformers_cross_attention_layer() -> None:
    roberta = reference("transformers.models.roberta.modeling_roberta")
    transformers = reference("transformers")
    config = transformers.RobertaConfig(
        hidden_size=16,
        num_attention_heads=2,
        intermediate_size=24,
        is_decoder=True,
        add_cross_attention=True,
        layer_norm_eps=1e-5,
    )
    config._attn_implementation = "eager"
    theirs = roberta.RobertaLayer(config).eval()
    randomise(theirs)
    ours = fusion().text_layers[0]
    ours.load_state_dict(theirs.state_dict())
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 6, 16, generator=generator), torch.randn(2, 4, 16, generator=generator)
    with torch.no_grad():
        expected = theirs(x, encoder_hidden_states=y)
        expected = expected[0] if isinstance(expected, tuple) else expected
        torch.testing.assert_close(ours(x, None, y), expected, atol=1e-5, rtol=0)
