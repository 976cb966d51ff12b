"""Cross-entropy against torch's, whole and in chunks."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from florence.data.classes import ClassBatch
from florence.losses.cross_entropy import CrossEntropyObjective


def batch(size: int = 7, classes: int = 5, *, mixed: bool = False) -> ClassBatch:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(classes, (size,), generator=generator)
    shares = torch.rand(size, generator=generator) if mixed else torch.ones(size)
    return ClassBatch(
        keys=tuple(map(str, range(size))),
        images=torch.randn(size, 3, 4, 4, generator=generator),
        labels=labels,
        partners=labels.roll(3),
        shares=shares,
    )


class Model(torch.nn.Module):
    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.fc = torch.nn.Linear(48, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.fc(images.flatten(1))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
def test_the_loss_is_torchs(smoothing: float) -> None:
    data, model = batch(), Model()
    objective = CrossEntropyObjective(smoothing)
    loss = objective.loss(objective.outputs(model, data), data, objective.prepare(data))
    logits = model(data.images)
    torch.testing.assert_close(
        loss.value, F.cross_entropy(logits, data.labels, label_smoothing=smoothing)
    )
    right = (logits.argmax(1) == data.labels).float().mean()
    torch.testing.assert_close(loss.metrics["accuracy"], right)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_mixed_images_have_the_probabilities_of_both(smoothing: float) -> None:
    data, model = batch(mixed=True), Model()
    objective = CrossEntropyObjective(smoothing)
    loss = objective.loss(objective.outputs(model, data), data, objective.prepare(data))
    one, two = F.one_hot(data.labels, 5).float(), F.one_hot(data.partners, 5).float()
    share = data.shares[:, None]
    expected = F.cross_entropy(
        model(data.images), share * one + (1 - share) * two, label_smoothing=smoothing
    )
    torch.testing.assert_close(loss.value, expected)


@pytest.mark.parametrize("chunks", [2, 3, 7])
def test_chunks_add_up(chunks: int) -> None:
    data, model = batch(mixed=True), Model()
    objective = CrossEntropyObjective(0.1)
    assert not objective.coupled
    count = objective.prepare(data)
    whole = objective.loss(objective.outputs(model, data), data, count)
    parts = [
        objective.loss(objective.outputs(model, part), part, count) for part in data.chunk(chunks)
    ]
    torch.testing.assert_close(sum(part.value for part in parts), whole.value)
    torch.testing.assert_close(
        sum(part.metrics["accuracy"] for part in parts), whole.metrics["accuracy"]
    )
