"""The planner's counts of fusing kinds against what was counted and what autograd keeps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from florence.kinds import KINDS
from florence.models.fusion import FusionSizes
from florence.models.meta import on_meta
from florence.models.roberta import Roberta, RobertaSizes
from florence.models.vision_language import BuildOptions, VisionLanguage, VisionLanguageShape
from florence.planner.fusion import RobertaSize
from florence.tasks.caption.model import CaptionModel
from florence.tasks.vlp.model import PretrainingModel
from florence.tasks.vqa.cost import ASSUMED_ANSWERS
from florence.tasks.vqa.model import QuestionModel
from florence.text.coding import ClipCoder
from tests.florence.tasks.vision_language.running import MODEL, settings

ARCHITECTURE = MODEL.architecture()
KIND_NAMES = ["vlp", "vqa", "caption"]


def made(kind: str, **changes: Any) -> Any:
    return settings(kind, "x", steps=1, resolution=32, **changes)


def model_of(kind: str, config: Any, **options: Any) -> VisionLanguage:
    shape = VisionLanguageShape(
        roberta=RobertaSizes() if config.text_encoder == "roberta" else None,
        coder=ClipCoder(),
        fusion=FusionSizes(**config.fusion.model_dump()),
        text_length=config.text_length,
    )
    given = BuildOptions(window=ARCHITECTURE.image.window, **options)
    if kind == "vqa":
        return QuestionModel(ARCHITECTURE, shape, given, ASSUMED_ANSWERS)
    return {"vlp": PretrainingModel, "caption": CaptionModel}[kind](ARCHITECTURE, shape, given)


@pytest.mark.parametrize("encoder", ["florence", "roberta"])
@pytest.mark.parametrize("kind", KIND_NAMES)
def test_parameters_are_those_of_the_model(kind: str, encoder: str) -> None:
    config = made(kind, textEncoder=encoder)
    with on_meta():
        model = model_of(kind, config)
    counts = KINDS[kind].cost.parameters(ARCHITECTURE, config)
    parts = dict.fromkeys(("image", "text", "fusion", "head"), 0)
    for name, parameter in model.named_parameters():
        parts[name.partition(".")[0]] += parameter.numel()
    assert counts.image == parts["image"]
    assert counts.text == parts["text"]
    assert counts.head == parts["fusion"] + parts["head"]
    trained = KINDS[kind].cost.trained_parameters(ARCHITECTURE, config)
    frozen = model.image.projection.weight.numel()
    if encoder == "florence":
        frozen += model.text.text_projection.numel()
    assert trained == counts.total - frozen


def test_roberta_base_has_its_parameters() -> None:
    with on_meta():
        model = Roberta(RobertaSizes())
    counted = sum(parameter.numel() for parameter in model.parameters())
    assert RobertaSize().parameters == counted == 124_055_040


def arguments(kind: str, batch: int, length: int) -> tuple[torch.Tensor, ...]:
    """Texts of full length; of vlp the words are hidden whose number the planner expects."""
    images = torch.zeros(batch, 3, 32, 32)
    ids = torch.full((batch, length), 5)
    lengths = torch.full((batch,), length)
    if kind != "vlp":
        return images, ids, lengths
    targets = torch.full((batch, length), -100)
    targets[:, :7] = 3
    negative = torch.zeros(batch, dtype=torch.bool)
    eligible = torch.ones(batch, 2, dtype=torch.bool)
    return images, ids, ids, targets, lengths, negative, eligible, torch.zeros(batch)


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_operations_are_those_that_are_done(kind: str) -> None:
    config = made(kind, **({"maskFraction": 0.5} if kind == "vlp" else {}))
    model = model_of(kind, config).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(*arguments(kind, 2, 16))
    expected = KINDS[kind].cost.forward_macs(ARCHITECTURE, config).total
    assert counter.get_total_flops() / 4 == pytest.approx(expected, rel=0.001)


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_activations_are_what_autograd_keeps(kind: str) -> None:
    config = made(kind, **({"maskFraction": 0.5} if kind == "vlp" else {}))
    model = model_of(kind, config).train()
    model.image.projection.requires_grad_(False)
    parameters = {p.untyped_storage()._cdata for p in model.parameters()}
    sizes = []
    for batch in (2, 6):
        saved: dict[int, int] = {}
        given = arguments(kind, batch, 16)
        known = parameters | {each.untyped_storage()._cdata for each in given}

        def pack(tensor: torch.Tensor, known: Any = known, saved: Any = saved) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage._cdata not in known:
                saved[storage._cdata] = storage.nbytes()
            return tensor

        with saved_tensors_hooks(pack, lambda tensor: tensor):
            result = model(*given)
        del result
        sizes.append(sum(saved.values()))
    kept = (sizes[1] - sizes[0]) / 4
    planned = KINDS[kind].cost.activation_bytes(ARCHITECTURE, config, cuda=False)
    # What the backward pass works with comes on top: a part of one layer.
    assert kept * 0.9 < planned < kept * 1.3
