"""Whether a text belongs to its image, as a trained two-tower model sees it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice

import torch
from PIL import Image

from florence.config.storage import S3Settings
from florence.data.transforms import eval_transform
from florence.errors import ConfigurationError
from florence.evaluation.embed import embed_images, embed_texts
from florence.models.opening import open_stored
from florence.models.stored import CARD, WEIGHTS, two_tower_of
from florence.storage import open_storage
from florence.text.tokenizer import tokenize

BATCH = 64


class RelevanceModel:
    """The cosine of images and texts under a model. Open it once in a process.

    Batches are of a fixed size and start anew with each shard, and on the CPU one thread computes,
    so that a score does not depend on how many processes there are.
    """

    def __init__(self, uri: str, s3: S3Settings | None, device: str) -> None:
        stored = open_stored(uri, s3)
        self._model, card = two_tower_of(stored, device=device), stored.card
        self._transform = eval_transform(card.resolution, card.mean, card.std)

    def score(self, pairs: Iterable[tuple[Image.Image, str]]) -> list[float]:
        """The cosine of every pair, -1 to 1, in order."""
        scores: list[float] = []
        remaining = iter(pairs)
        with _one_thread():
            # Images are transformed as they come: full-size ones do not pile up in a batch.
            while batch := [(self._transform(i), t) for i, t in islice(remaining, BATCH)]:
                images = embed_images(self._model, [torch.stack([image for image, _ in batch])])
                texts = embed_texts(self._model, tokenize, [text for _, text in batch])
                scores += (images * texts).sum(dim=1).tolist()
        return scores


@lru_cache(1)
def relevance_model(uri: str, s3: S3Settings | None, device: str) -> RelevanceModel:
    """The model at a URI, loaded once in this process.

    Raises:
        ConfigurationError: there is no such device.
        DataError: the model is missing or broken.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise ConfigurationError(f"--device {device}: this machine has no CUDA device: use cpu")
    return RelevanceModel(uri, s3, device)


def model_identity(uri: str, s3: S3Settings | None) -> list[list[object]]:
    """What identifies a model without reading its weights: names, sizes and dates of its files."""
    known = (CARD, WEIGHTS)
    return [
        [entry.key, entry.size, entry.modified]
        for entry in open_storage(uri, s3).list()
        if entry.key in known or entry.key.startswith("model/")
    ]


@contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
