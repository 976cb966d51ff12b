"""The model's part of evaluation: order, modes, precision."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from florence.config import Precision, architecture_of
from florence.evaluation.embed import embed_images, embed_texts, inference
from florence.models.two_tower import TwoTower, build_model
from florence.text.tokenizer import tokenize


@pytest.fixture
def model() -> TwoTower:
    return build_model(architecture_of("coswin-nano"), seed=1, drop_path=0.5).train()


def test_images_come_back_in_order_whatever_the_batches(model: TwoTower) -> None:
    images = torch.randn(7, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    whole = embed_images(model, [images])
    parts = embed_images(model, images.split(3))
    torch.testing.assert_close(parts, whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(whole.norm(dim=1), torch.ones(7), atol=1e-6, rtol=0)
    assert not whole.requires_grad
    assert embed_images(model, []).shape == (0, 64)


def test_texts_come_back_in_order_with_repeats(model: TwoTower) -> None:
    texts = ["a long caption about a cat!", "cat", "!!", "cat", "zebra crossing", ""]
    made = embed_texts(model, tokenize, texts, batch_size=2)
    with torch.no_grad():
        expected = model.eval().encode_text(tokenize(texts, 77))
    torch.testing.assert_close(made, expected, atol=1e-6, rtol=0)
    assert torch.equal(made[1], made[3])


def test_modes_are_restored_also_after_a_failure(model: TwoTower) -> None:
    frozen = model.text
    frozen.eval()
    before = {name: module.training for name, module in model.named_modules()}

    def broken() -> Iterator[Tensor]:
        assert not any(module.training for module in model.modules())
        yield torch.zeros(1, 3, 32, 32)
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        embed_images(model, broken())
    assert {name: module.training for name, module in model.named_modules()} == before
    assert torch.is_grad_enabled()


def test_low_precision_is_used_and_the_result_is_fp32(model: TwoTower) -> None:
    seen = []
    hook = next(m for m in model.image.modules() if isinstance(m, nn.Linear))
    hook.register_forward_hook(lambda _m, _i, output: seen.append(output.dtype))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    low = embed_images(model, [images], precision=Precision.BF16)
    high = embed_images(model, [images])
    assert seen == [torch.bfloat16, torch.float32]
    assert low.dtype == torch.float32
    assert not torch.equal(low, high)
    assert float((low * high).sum(dim=1).min()) > 0.99


def test_training_works_after_an_evaluation(model: TwoTower) -> None:
    images = torch.randn(2, 3, 32, 32)
    with inference(model):
        model.encode_image(images)
    model.encode_image(images).sum().backward()
    assert all(p.grad is not None for p in model.image.parameters())
