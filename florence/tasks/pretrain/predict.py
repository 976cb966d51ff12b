"""Zero-shot classification and embedding with a two-tower model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from florence.evaluation.classify import class_embeddings
from florence.evaluation.embed import embed_images, embed_texts
from florence.models.stored import StoredModel, two_tower_of
from florence.tasks.predicting import BadRowError, image_batches, ranked, text_list
from florence.tasks.pretrain import CONTRASTIVE
from florence.text.templates import GAP, IMAGENET
from florence.text.tokenizer import tokenize


class ContrastivePredictor:
    """See :class:`florence.tasks.task.Predictor`."""

    inputs = CONTRASTIVE.inputs

    def __init__(self, stored: StoredModel, device: torch.device) -> None:
        self.card = stored.card
        self.module = two_tower_of(stored, device=str(device))
        # One entry per set of labels that is asked for, each C x D floats.
        self._classes = lru_cache(maxsize=32)(self._class_embeddings)

    def predict(
        self, rows: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Per row label, probability and probabilities; without labels the embedding.

        A row's own labels win over the parameter.
        """
        templates = text_list(parameters.get("templates"), "templates")
        for template in templates:
            if GAP not in template:
                raise BadRowError(f"template '{template}' has no {GAP} where the label goes")
        common = text_list(parameters.get("labels"), "labels")
        labels = [
            text_list(row.get("labels"), f"row {number}: labels") or common
            for number, row in enumerate(rows)
        ]
        embeddings = embed_images(self.module, image_batches(rows, self.card))
        return [
            self._answer(embedding, own, templates or self.card.templates or IMAGENET)
            for embedding, own in zip(embeddings, labels, strict=True)
        ]

    def embed_images(self, images: Sequence[Any]) -> Tensor:
        """Embeddings (N, D) of unit length, fp32, of files' bytes or Pillow images."""
        rows = [{"image": image} for image in images]
        return embed_images(self.module, image_batches(rows, self.card))

    def embed_videos(self, videos: Sequence[bytes]) -> Tensor:
        """Embeddings (N, D) of unit length, fp32: the mean over a frame a second, at most 12."""
        from florence.data.video.files import BrokenClipError
        from florence.data.video.sampling import even_frames
        from florence.evaluation.video_embeddings import mean_direction
        from florence.tasks.video.predict import opened

        found = []
        for number, video in enumerate(videos):
            with opened({"video": video}, number) as clip:
                chosen = even_frames(clip.times, clip.duration, per_second=1.0, most=12)
                try:
                    frames = [Image.fromarray(frame) for frame in clip.frames(chosen.tolist())]
                except BrokenClipError as error:
                    raise BadRowError(f"row {number}: video: {error}") from None
            found.append(mean_direction(self.embed_images(frames)))
        return torch.stack(found)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings (N, D) of unit length, fp32."""
        return embed_texts(self.module, tokenize, list(texts))

    def _answer(
        self, embedding: Tensor, labels: tuple[str, ...], templates: tuple[str, ...]
    ) -> dict[str, Any]:
        if not labels:
            return {"embedding": embedding.tolist()}
        scale = self.module.logit_scale.detach().float().cpu().exp()
        logits = scale * (self._classes(labels, templates) @ embedding)
        return ranked(labels, logits.softmax(dim=0))

    def _class_embeddings(self, labels: tuple[str, ...], templates: tuple[str, ...]) -> Tensor:
        return class_embeddings(self.module, tokenize, labels, templates)
