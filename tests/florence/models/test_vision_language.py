"""What an image and a text say as a whole, by the sort of text encoder."""

from __future__ import annotations

import pytest
import torch

from florence.config import ModelConfig
from florence.models.bert import initialise, mask_of
from florence.models.fusion import FusionSizes
from florence.models.roberta import RobertaSizes
from florence.models.vision_language import BuildOptions, VisionLanguage, VisionLanguageShape
from florence.text.coding import ClipCoder

ROBERTA = RobertaSizes(vocabulary=60, positions=20, width=16, layers=1, heads=2, hidden=24)


@pytest.mark.parametrize(("roberta", "places"), [(None, [6, 1, 3]), (ROBERTA, [0, 0, 0])])
def test_a_text_is_pooled_where_its_encoder_has_seen_all_of_it(
    roberta: RobertaSizes | None, places: list[int]
) -> None:
    architecture = ModelConfig(preset="coswin-nano").architecture()
    shape = VisionLanguageShape(
        roberta=roberta,
        coder=ClipCoder(),
        fusion=FusionSizes(layers=1, width=16, heads=2, hidden=24),
        text_length=8,
    )
    options = BuildOptions(window=architecture.image.window)
    model = VisionLanguage(architecture, shape, options, torch.nn.Identity()).eval()
    initialise(model, torch.Generator().manual_seed(0))
    ids = torch.randint(0, 50, (3, 7), generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([7, 2, 4])
    with torch.no_grad():
        fused = model.fuse(torch.randn(3, 4, 8 * architecture.image.width), ids, lengths)
        pooled = model.pooled(fused, lengths)
        texts = torch.stack([fused.text[row, place] for row, place in enumerate(places)])
        images = fused.image.mean(dim=1)
        expected = [model.fusion.text_pooler(texts), model.fusion.image_pooler(images)]
        torch.testing.assert_close(pooled, torch.cat(expected, dim=1))
        # What comes out of the encoder there depends on the other tokens.
        mask, rows = mask_of(lengths, 7), torch.arange(3)
        other = ids.clone()
        other[:, 1 if roberta else 0] += 1
        change = model.text_tokens(ids, mask) - model.text_tokens(other, mask)
    assert (change[rows, places].abs().amax(dim=1) > 0).all()
