"""Naming what a class-agnostic detector finds: its proposals are compared with texts.

Source: Florence (arXiv 2111.11432) section 3.5. What the paper leaves open: the score of a class is
the root of objectness times its probability among the classes, and what is compared is the square
around a proposal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from florence.config.detection import Inference
from florence.evaluation.classify import class_embeddings
from florence.evaluation.models import ModelCard, ScaledEncoder
from florence.tasks.detection.decode import Detections, suppressed
from florence.tasks.detection.looking import Look, crops
from florence.tasks.detection.nms import nms
from florence.tasks.detection.padding import Triple
from florence.tasks.detection.shape import ZERO_SHOT_DETECTION, DetectorShape
from florence.text.tokenizer import tokenize

CROPS_AT_ONCE = 64


@dataclass(frozen=True)
class BoxClassifier:
    """Two towers that compare crops with texts.

    Attributes:
        encode: fp32 ``(B, 3, R, R)`` to ``(B, D)`` of unit length, on one device.
        classes: ``(K, D)`` of unit length, on that device.
        scale: what similarities are multiplied by before the softmax.
        resolution: R.
        mean, std: of the channels in [0, 1].
    """

    encode: Callable[[Tensor], Tensor]
    classes: Tensor
    scale: float
    resolution: int
    mean: Triple
    std: Triple

    def probabilities(self, image: Image.Image, boxes: Tensor, context: float) -> Tensor:
        """How probable each class is of what is in each box, ``(N, K)``, rows sum to 1."""
        rows = []
        for part in torch.split(boxes, CROPS_AT_ONCE) if len(boxes) else ():
            pixels = crops(
                image,
                part,
                context=context,
                resolution=self.resolution,
                mean=self.mean,
                std=self.std,
            )
            embeddings = self.encode(pixels.to(self.classes.device)).float()
            rows.append((self.scale * embeddings @ self.classes.T).softmax(dim=-1))
        return torch.cat(rows) if rows else self.classes.new_zeros(0, len(self.classes))


def classifier_of(
    towers: ScaledEncoder,
    card: ModelCard,
    classes: Sequence[str],
    templates: Sequence[str],
    settings: Inference,
) -> BoxClassifier:
    """A classifier of the towers of a model, its own or another detector's.

    Args:
        towers: the model, in evaluation mode.
        card: the model's.
        classes: what to call things.
        templates: sentences that the names are put into.
        settings: for the size of crops.
    """
    embeddings = class_embeddings(towers, tokenize, classes, templates)
    device = next(iter(towers.parameters())).device
    return BoxClassifier(
        encode=towers.encode_image,
        classes=embeddings.to(device),
        scale=float(towers.logit_scale.detach().float().exp()),
        resolution=settings.crop_resolution or crop_resolution(card),
        mean=card.mean,
        std=card.std,
    )


def crop_resolution(card: ModelCard) -> int:
    """Side of the images that a model's towers were trained on together."""
    if card.task == ZERO_SHOT_DETECTION:
        return DetectorShape.of(card, "the detector").tower_resolution
    return card.resolution


def proposals(look: Look, image: Image.Image, settings: Inference) -> Detections:
    """Where there is anything: the best boxes of a class-agnostic detector, best first."""
    found = look.raw(image)
    kept = nms(found.boxes, found.scores, settings.proposal_iou)
    return found.pick(kept[: settings.proposals])


def named(
    look: Look, classifier: BoxClassifier, image: Image.Image, settings: Inference
) -> Detections:
    """Proposals with every class, scored by both, the best suppressed class by class."""
    found = proposals(look, image, settings)
    probabilities = classifier.probabilities(image, found.boxes, settings.crop_context)
    every = fused(found, probabilities)
    # Thousands of classes make more boxes than suppression could ever keep.
    best = every.scores.sort(descending=True, stable=True).indices[: settings.candidates]
    return suppressed(every.pick(best), settings)


def fused(found: Detections, probabilities: Tensor) -> Detections:
    """Every proposal as a box of every class, with the root of objectness times probability."""
    count, classes = probabilities.shape
    scores = (found.scores[:, None] * probabilities).sqrt()
    labels = torch.arange(classes, device=scores.device).expand(count, -1)
    return Detections(
        found.boxes.repeat_interleave(classes, dim=0), scores.flatten(), labels.flatten()
    )
