"""What a detector minimises over a batch, normalised over all ranks.

Who is to find what (ATSS) and how central it is depend on the boxes only: both, and the sums that
the loss is divided by, are known before the first forward pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from florence.distributed.objective import Loss, Model
from florence.distributed.world import World
from florence.tasks.detection.anchors import anchors, levels_of
from florence.tasks.detection.assign import assign
from florence.tasks.detection.batch import DetectionBatch, Target
from florence.tasks.detection.box_coder import decode
from florence.tasks.detection.boxes import centres
from florence.tasks.detection.losses import (
    centerness,
    centerness_loss,
    focal_loss,
    focal_terms,
    giou_loss,
)
from florence.tasks.detection.padding import Group, Size, Triple, grouped, stacked
from florence.tasks.detection.predictors import Predictions
from florence.tasks.detection.settings import DetectionLoss

LEAST = 1e-6
"""Sums of centerness below it, of batches in which nothing is to be found, count as it."""


class Assigned(NamedTuple):
    """What the anchors of one image are to find. P of them find something."""

    matched: Tensor
    """int64 ``(A,)``: the number of the target's object, -1 for background."""
    positive: Tensor
    """int64 ``(P,)``: the anchors that find something."""
    central: Tensor
    """fp32 ``(P,)``: centerness of each."""
    weight: Tensor
    """fp32 ``(P,)``: score of each one's object."""


class Prepared(NamedTuple):
    """Of a whole batch of one rank."""

    assigned: dict[Target, Assigned]
    positives: Tensor
    """Anchors that find something, by weight: the mean over ranks, at least 1."""
    central: Tensor
    """The sum of their centerness: the mean over ranks."""
    attributes: Tensor
    """Attributes that objects have: the mean over ranks, at least 1."""


@dataclass(frozen=True)
class DetectionObjective:
    """Focal loss of classes, GIoU of boxes, cross-entropies of centerness and attributes.

    Metrics: ``train/class_loss``, ``train/box_loss``, ``train/centerness_loss``, and
    ``train/attribute_loss`` where attributes are learnt.

    Attributes:
        strides: of the pyramid's levels.
        mean, std: of the channels in [0, 1].
        weights: of the parts.
        world: the ranks.
        class_agnostic: whether all objects are of one class.
        attributes: how many attributes the model has a branch for; 0 where it has none.
        equal_calls: whether all ranks must call the model for equally many groups of images.
    """

    strides: tuple[int, ...]
    mean: Triple
    std: Triple
    weights: DetectionLoss
    world: World
    class_agnostic: bool = False
    attributes: int = 0
    equal_calls: bool = False

    coupled = False

    def prepare(self, batch: DetectionBatch) -> Prepared:
        """Assign anchors and sum up over ranks; collective."""
        assigned: dict[Target, Assigned] = {}
        for group in grouped(batch.images):
            targets = [batch.targets[index] for index in group.indices]
            assigned |= zip(targets, self._assigned(group.size, targets), strict=True)
        device = batch.images[0].device
        sums = torch.zeros(3, device=device)
        for target, each in assigned.items():
            sums[0] += each.weight.sum()
            sums[1] += (each.central * each.weight).sum()
            if self.attributes and target.attributes is not None:
                sums[2] += (target.attributes & ~target.crowd[:, None]).sum()
        means = self.world.all_reduce_mean(sums)
        return Prepared(
            assigned, means[0].clamp(min=1), means[1].clamp(min=LEAST), means[2].clamp(min=1)
        )

    def outputs(self, model: Model, chunk: DetectionBatch) -> tuple[Tensor, ...]:
        """The three tensors of each group's predictions, and its attributes' logits if any."""
        groups = self._groups(chunk)
        images = [stacked(chunk.images, group, self.mean, self.std) for group in groups]
        if not self.attributes:
            return tuple(model(images))
        regions = [[self._described(chunk.targets[i])[0] for i in g.indices] for g in groups]
        return tuple(model(images, regions))

    def loss(self, outputs: tuple[Tensor, ...], batch: DetectionBatch, prepared: Prepared) -> Loss:
        """The chunk's part of the loss."""
        each = 4 if self.attributes else 3
        groups = grouped(batch.images, at_least=len(outputs) // each)
        sums = torch.zeros(4, device=outputs[0].device)
        for number, group in enumerate(groups):
            mine = outputs[each * number : each * (number + 1)]
            targets = [batch.targets[index] for index in group.indices]
            sums = sums + self._group_sums(mine, group.size, targets, prepared)
        parts = sums / torch.stack(
            [prepared.positives, prepared.central, prepared.positives, prepared.attributes]
        )
        names = ("class", "box", "centerness", "attribute")[:each]
        scale = parts.new_tensor(
            [
                1.0,
                self.weights.box_weight,
                self.weights.centerness_weight,
                self.weights.attribute_weight,
            ]
        )
        metrics = {
            f"train/{name}_loss": part.detach() for name, part in zip(names, parts, strict=False)
        }
        return Loss((parts * scale).sum(), metrics)

    def _groups(self, chunk: DetectionBatch) -> list[Group]:
        groups = grouped(chunk.images)
        if not self.equal_calls or self.world.size == 1:
            return groups
        count = torch.tensor([len(groups)], device=chunk.images[0].device)
        most = int(self.world.all_reduce_max(count).item())
        return grouped(chunk.images, at_least=most)

    def _assigned(self, size: Size, targets: Sequence[Target]) -> list[Assigned]:
        levels = levels_of(*size, self.strides)
        real = [(~target.crowd).nonzero().squeeze(1) for target in targets]
        found = assign(levels, [t.boxes[own] for t, own in zip(targets, real, strict=True)])
        every = anchors(levels, found.device)
        results = []
        for target, own, row in zip(targets, real, found, strict=True):
            positive = (row >= 0).nonzero().squeeze(1)
            matched = torch.full_like(row, -1)
            matched[positive] = own[row[positive]]
            objects = matched[positive]
            central = centerness(every[positive], target.boxes[objects])
            results.append(Assigned(matched, positive, central, target.scores[objects]))
        return results

    def _group_sums(
        self,
        outputs: Sequence[Tensor],
        size: Size,
        targets: Sequence[Target],
        prepared: Prepared,
    ) -> Tensor:
        """Sums of the four losses over a group's images, fp32 ``(4,)``."""
        predictions = Predictions(*outputs[:3])
        every = anchors(levels_of(*size, self.strides), predictions.deltas.device)
        total = torch.zeros(4, device=every.device)
        for row, target in enumerate(targets):
            each = prepared.assigned[target]
            objects = each.matched[each.positive]
            boxes = decode(predictions.deltas[row, each.positive], every[each.positive])
            total = total + torch.stack(
                [
                    self._class_loss(predictions.logits[row], every, target, each),
                    giou_loss(boxes, target.boxes[objects], each.central * each.weight),
                    centerness_loss(
                        predictions.centerness[row, each.positive], each.central, each.weight
                    ),
                    every.new_zeros(()),
                ]
            )
        if not self.attributes:
            return total
        truth = torch.cat([self._described(target)[1] for target in targets])
        terms = focal_terms(outputs[3], truth).sum()
        return total + torch.stack([*total.new_zeros(3), terms])

    def _described(self, target: Target) -> tuple[Tensor, Tensor]:
        """The boxes of the objects whose attributes are known, and these, bool ``(R, A)``."""
        if target.attributes is None:
            none = target.crowd.new_zeros((0, self.attributes))
            return target.boxes[:0], none
        known = ~target.crowd
        return target.boxes[known], target.attributes[known]

    def _class_loss(self, logits: Tensor, every: Tensor, target: Target, each: Assigned) -> Tensor:
        labels = torch.zeros_like(target.labels) if self.class_agnostic else target.labels
        wanted = torch.full_like(each.matched, -1)
        wanted[each.positive] = labels[each.matched[each.positive]]
        weights = torch.ones(len(wanted), device=logits.device)
        weights[each.positive] = each.weight
        crowds = labels[target.crowd]
        if target.annotated is not None and not self.class_agnostic:
            # The image's own vocabulary: about other classes it says nothing.
            looked_for = target.annotated.index_fill(0, labels, True)
            columns = looked_for.nonzero().squeeze(1)
            place = looked_for.cumsum(0) - 1
            logits = logits[:, columns]
            wanted = torch.where(wanted >= 0, place[wanted.clamp(min=0)], wanted)
            crowds = place[crowds]
        ignored = None
        if len(crowds):
            ignored = _in_crowds(every, target.boxes[target.crowd], crowds, logits.shape[1])
            found = wanted[each.positive]
            ignored[each.positive, found] = False
        return focal_loss(logits, wanted, weights=weights, ignored=ignored)


def _in_crowds(every: Tensor, regions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Which anchors have their centre in a crowd of which class: bool ``(A, K)``."""
    middle = centres(every)[:, None]
    inside = ((middle > regions[:, :2]) & (middle < regions[:, 2:])).all(dim=-1)
    ignored = torch.zeros(len(every), classes, dtype=torch.bool, device=every.device)
    for column, label in enumerate(labels.tolist()):
        ignored[:, label] |= inside[:, column]
    return ignored
