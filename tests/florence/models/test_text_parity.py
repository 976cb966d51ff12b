"""The text tower equals open_clip's and transformers'."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from florence.config import Activation, TextTower
from florence.models.text import TextTransformer
from tests.florence.models.references import randomise, reference

WIDTH, LAYERS, HEADS, VOCABULARY, CONTEXT, EMBED = 64, 3, 4, 120, 24, 32


def texts() -> Tensor:
    """Start, words, end (the highest id), padding: some short, one that fills the context."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.zeros(4, CONTEXT, dtype=torch.int64)
    for row, words in enumerate((1, 5, 11, CONTEXT - 2)):
        ids[row, 0] = VOCABULARY - 2
        ids[row, 1 : words + 1] = torch.randint(1, VOCABULARY - 2, (words,), generator=generator)
        ids[row, words + 1] = VOCABULARY - 1
    return ids


def tower(activation: Activation) -> TextTransformer:
    config = TextTower(
        width=WIDTH,
        layers=LAYERS,
        heads=HEADS,
        hidden=4 * WIDTH,
        context=CONTEXT,
        vocabulary=VOCABULARY,
        activation=activation,
    )
    return TextTransformer(config, EMBED).eval()


def ours_from_transformers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    names = {
        "text_model.": "",
        "embeddings.token_embedding.": "token_embedding.",
        "embeddings.position_embedding.weight": "positional_embedding",
        "encoder.layers.": "transformer.resblocks.",
        "layer_norm1.": "ln_1.",
        "layer_norm2.": "ln_2.",
        "final_layer_norm.": "ln_final.",
        "self_attn.out_proj.": "attn.out_proj.",
        "self_attn.qkv.": "attn.in_proj_",
        "mlp.fc1.": "mlp.c_fc.",
        "mlp.fc2.": "mlp.c_proj.",
        "text_projection.weight": "text_projection",
    }
    result = {}
    for name, value in state.items():
        if ".k_proj." in name or ".v_proj." in name or name.endswith("position_ids"):
            continue
        if ".q_proj." in name:
            value = torch.cat([state[name.replace("q_proj", part + "_proj")] for part in "qkv"])
            name = name.replace("q_proj", "qkv")
        for theirs, our in names.items():
            name = name.replace(theirs, our)
        result[name] = value.t() if name == "text_projection" else value
    return result


@pytest.mark.parametrize("activation", list(Activation))
def test_equals_open_clip(activation: Activation) -> None:
    transformer = reference("open_clip.transformer")
    act = {Activation.GELU: nn.GELU, Activation.QUICK_GELU: transformer.QuickGELU}
    theirs = transformer.TextTransformer(
        context_length=CONTEXT,
        vocab_size=VOCABULARY,
        width=WIDTH,
        heads=HEADS,
        layers=LAYERS,
        output_dim=EMBED,
        act_layer=act[activation],
    )
    randomise(theirs)
    theirs.eval()
    model = tower(activation)
    model.load_state_dict(theirs.state_dict())
    ours_out, theirs_out = model(texts()), theirs(texts())
    assert theirs_out.abs().max() > 0.5
    torch.testing.assert_close(ours_out, theirs_out, rtol=0, atol=1e-5)

    direction = torch.randn_like(ours_out)
    (ours_out * direction).sum().backward()
    (theirs_out * direction).sum().backward()
    grads = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in model.named_parameters():
        expected = grads[name]
        assert expected is not None
        scale = expected.abs().max().item()
        torch.testing.assert_close(parameter.grad, expected, rtol=0, atol=2e-5 * scale, msg=name)


@pytest.mark.parametrize("activation", list(Activation))
def test_equals_transformers(activation: Activation) -> None:
    transformers = reference("transformers")
    config = transformers.CLIPTextConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        projection_dim=EMBED,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=CONTEXT,
        hidden_act=activation.value,
        bos_token_id=VOCABULARY - 2,
        eos_token_id=VOCABULARY - 1,
        pad_token_id=0,
    )
    theirs = transformers.CLIPTextModelWithProjection(config)
    randomise(theirs)
    theirs.eval()
    model = tower(activation)
    model.load_state_dict(ours_from_transformers(theirs.state_dict()))
    with torch.no_grad():
        expected = theirs(input_ids=texts()).text_embeds
        assert expected.abs().max() > 0.5
        torch.testing.assert_close(model(texts()), expected, rtol=0, atol=1e-5)
