"""What every evaluation is given and gives back, and how its work is dealt out to the ranks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from florence.config import Precision
from florence.config.evaluations import EvaluationSettings
from florence.config.storage import S3Settings
from florence.data.labelled import Images, image_batches
from florence.distributed.world import World
from florence.evaluation.embed import Watch, embed_in_order, model_outputs
from florence.evaluation.models import ImageTextEncoder, Model, ModelCard
from florence.text.tokenizer import tokenize


@dataclass(frozen=True)
class Example:
    """An image of the data that a user can try the model on."""

    png: bytes
    labels: tuple[str, ...]
    prompts: str
    """The prompts of a zero-shot classification; empty for a model with a head."""


@dataclass(frozen=True)
class Results:
    """What one evaluation found; ``metrics`` are fractions of 1, the one that counts first."""

    metrics: dict[str, float] = field(default_factory=dict)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)
    """PNGs."""
    example: Example | None = None
    files: dict[str, bytes] = field(default_factory=dict)
    """What else is kept in the stage's artifacts, by file name: answers for a server, say."""


@dataclass(frozen=True)
class Prepared:
    """An evaluation whose data is open and whose settings fit: only the work is left."""

    inputs: int
    """How many images and texts will go through the model, on all ranks together."""
    run: Callable[[], Results]
    """Collective. Results matter on rank 0 only."""


@dataclass(frozen=True, kw_only=True)
class EvaluationContext:
    """A model, and how to run it. Every rank has one and calls its methods in the same order.

    Inputs are dealt out to the ranks one by one, and every rank runs equally many batches of equal
    sizes (the last input is repeated), so that models whose forward pass is collective (ZeRO-3)
    can be evaluated.
    """

    model: nn.Module
    card: ModelCard
    world: World
    s3: S3Settings | None
    batch_size: int
    resolution: int
    precision: Precision
    workers: int
    watch: Watch
    """Called after every batch with the number of its inputs; raises when asked to stop."""

    @property
    def opening(self) -> dict[str, Any]:
        """How data is opened once for all ranks; see :meth:`ShardSet.open`."""
        alone = self.world.size == self.world.local_size
        return {"share": self.world.on_first, "allow_unindexed": alone}

    def over_images(
        self, images: Images, model: Model, function: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """What ``function`` of the model makes of all images: ``(N, C)`` fp32 on every rank's CPU.

        Args:
            images: at least one.
            model: whose mode is set and left as it was.
            function: fp32 ``(B, 3, R, R)``, normalised as the card says, to ``(B, C)``.

        Raises:
            DataError: an image is broken; names it.
        """

        def rows(share: Sequence[int]) -> Tensor:
            batches = image_batches(
                images,
                resolution=self.resolution,
                mean=self.card.mean,
                std=self.card.std,
                batch_size=self.batch_size,
                workers=self.workers,
                indices=share,
            )
            return model_outputs(
                model, function, batches, precision=self.precision, watch=self.watch
            )

        return self.dealt(len(images), rows)

    def over_texts(self, texts: Sequence[str], model: ImageTextEncoder) -> Tensor:
        """Embeddings of all texts, equal ones computed once: ``(N, D)`` fp32 on every rank."""
        unique = sorted(dict.fromkeys(texts), key=len)
        position = {text: row for row, text in enumerate(unique)}

        def rows(share: Sequence[int]) -> Tensor:
            return self._embed(model, [unique[i] for i in share])

        embeddings = self.dealt(len(unique), rows)
        return embeddings[torch.tensor([position[text] for text in texts])]

    def over_groups(
        self,
        groups: Sequence[Sequence[str]],
        model: ImageTextEncoder,
        reduce: Callable[[Tensor], Tensor],
    ) -> Tensor:
        """Each group of texts reduced to one row, of groups of one size: ``(N, D)`` on every rank.

        Only the reduced rows travel: 80 templates of 1,000 classes are 80,000 embeddings.

        Args:
            groups: N groups of T texts.
            model: the two-tower model.
            reduce: ``(n, T, D)`` to ``(n, D)``.
        """

        def rows(share: Sequence[int]) -> Tensor:
            texts = [text for i in share for text in groups[i]]
            order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
            found = self._embed(model, [texts[i] for i in order])
            inverse = torch.tensor(order).argsort()
            return reduce(found[inverse].reshape(len(share), -1, found.shape[1]))

        return self.dealt(len(groups), rows)

    def _embed(self, model: ImageTextEncoder, texts: Sequence[str]) -> Tensor:
        return embed_in_order(
            model,
            tokenize,
            texts,
            batch_size=self.batch_size,
            precision=self.precision,
            watch=self.watch,
        )

    def dealt(self, count: int, rows: Callable[[Sequence[int]], Tensor]) -> Tensor:
        """Rows 0 to ``count - 1``, each made by one rank, all of them on every rank.

        Args:
            count: at least 1.
            rows: makes the rows of the given numbers, ``(len(numbers), C)``.
        """
        rank, size = self.world.rank, self.world.size
        share = [min(i * size + rank, count - 1) for i in range(-(-count // size))]
        mine = rows(share)
        whole = mine.new_empty(count, *mine.shape[1:])
        for other, part in enumerate(self.world.all_gather_object(mine)):
            whole[other::size] = part[: len(range(other, count, size))]
        return whole

    def gathered(self, count: int, items: Callable[[Sequence[int]], Iterable[Any]]) -> list[Any]:
        """Like :meth:`dealt` for any objects, read once by one rank each and known to all."""
        rank, size = self.world.rank, self.world.size
        whole: list[Any] = [None] * count
        parts = self.world.all_gather_object(list(items(range(rank, count, size))))
        for other, part in enumerate(parts):
            whole[other::size] = part
        return whole


Prepare = Callable[[EvaluationContext, EvaluationSettings], Prepared]
"""What the registry names: opens data and checks settings, before any evaluation runs.

Raises ``ConfigurationError`` and ``DataError``. It gets the settings class of its registry line.
"""
