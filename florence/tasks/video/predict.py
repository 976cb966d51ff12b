"""What models of clips say about videos."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from florence.config.video import Views
from florence.data.transforms import normalise
from florence.data.video.decoding import open_clip
from florence.data.video.files import BrokenClipError, ClipFile, ClipLimits
from florence.data.video.pixels import spans_of
from florence.evaluation.classify import class_embeddings
from florence.evaluation.embed import embed_texts
from florence.evaluation.models import inference
from florence.evaluation.video_embeddings import mean_direction
from florence.models.stored import StoredModel
from florence.models.video_models import sampling_of, video_classifier_of, video_towers_of
from florence.tasks.predicting import BadRowError, ranked, text_list
from florence.tasks.video import ACTION_RECOGNITION, VIDEO_TEXT
from florence.text.templates import GAP
from florence.text.tokenizer import tokenize

LIMITS = ClipLimits(seconds=3600.0, pixels=4096 * 2304, frames=400_000)
"""Of a video that is predicted on, also by a server: an hour, 4K."""
MOST_BYTES = 512 << 20
MOST_PARTS = 3_600


class ActionPredictor:
    """See :class:`florence.tasks.task.Predictor`."""

    inputs = ACTION_RECOGNITION.inputs

    def __init__(self, stored: StoredModel, device: torch.device) -> None:
        self.card = stored.card
        self.module = video_classifier_of(stored, device)

    def predict(
        self, rows: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Per row the most probable label, its probability, and those of the ``top`` labels.

        Probabilities are means over four spans of the video. With ``every`` there is a
        ``timeline``: for each part of so many seconds its ``start``, ``label``, ``probability``.
        """
        top, every = _top(parameters.get("top")), _every(parameters.get("every"))
        return [self._answer(row, number, top, every) for number, row in enumerate(rows)]

    def _answer(
        self, row: Mapping[str, Any], number: int, top: int, every: float
    ) -> dict[str, Any]:
        labels, sampling = self.card.labels, sampling_of(self.card)
        with opened(row, number) as clip:
            try:
                whole = self._chances(
                    spans_of(clip, self.card.resolution, sampling, Views(spans=4, crops=1))
                )
                best = whole.topk(min(top, len(labels))).indices.tolist()
                answer = ranked([labels[i] for i in best], whole[best])
                if every:
                    answer["timeline"] = list(self._timeline(clip, every, number))
            except BrokenClipError as error:
                raise BadRowError(f"row {number}: video: {error}") from None
        return answer

    def _timeline(self, clip: ClipFile, every: float, number: int) -> Iterator[dict[str, Any]]:
        parts = max(1, int(np.ceil(clip.duration / every - 1e-6)))
        if parts > MOST_PARTS:
            raise BadRowError(
                f"row {number}: every: {every:g} s of {clip.duration:.0f} s are {parts} parts, at "
                f"most {MOST_PARTS} are answered: give more seconds"
            )
        sampling, views = sampling_of(self.card), Views(spans=1, crops=1)
        for part in range(parts):
            between = (part * every, (part + 1) * every)
            chances = self._chances(spans_of(clip, self.card.resolution, sampling, views, between))
            best = int(chances.argmax())
            yield {
                "start": part * every,
                "label": self.card.labels[best],
                "probability": float(chances[best]),
            }

    def _chances(self, views: np.ndarray[Any, np.dtype[np.uint8]]) -> Tensor:
        with inference(self.module) as device:
            clips = normalise(torch.from_numpy(views), self.card.mean, self.card.std)
            rows = [self.module(one.to(device)) for one in torch.split(clips.transpose(1, 2), 1)]
        return torch.cat(rows).float().softmax(dim=1).mean(dim=0).cpu()


class VideoTextPredictor:
    """See :class:`florence.tasks.task.Predictor`."""

    inputs = VIDEO_TEXT.inputs

    def __init__(self, stored: StoredModel, device: torch.device) -> None:
        self.card = stored.card
        self.module = video_towers_of(stored, device)

    def predict(
        self, rows: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Per row label, probability and probabilities; without labels the embedding."""
        labels = text_list(parameters.get("labels"), "labels")
        templates = text_list(parameters.get("templates"), "templates") or (GAP,)
        for template in templates:
            if GAP not in template:
                raise BadRowError(f"template '{template}' has no {GAP} where the label goes")
        embeddings = self._embedded(rows)
        if not labels:
            return [{"embedding": row.tolist()} for row in embeddings]
        classes = class_embeddings(self.module, tokenize, labels, templates)
        scale = self.module.logit_scale.detach().float().cpu().exp()
        return [ranked(labels, (scale * (classes @ row)).softmax(dim=0)) for row in embeddings]

    def embed_videos(self, videos: Sequence[bytes]) -> Tensor:
        """Embeddings (N, D) of unit length, fp32, of files' bytes."""
        return self._embedded([{"video": video} for video in videos])

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings (N, D) of unit length, fp32."""
        return embed_texts(self.module, tokenize, list(texts))

    def _embedded(self, rows: Sequence[Mapping[str, Any]]) -> Tensor:
        views, found = Views(spans=1, crops=1), []
        for number, row in enumerate(rows):
            with opened(row, number) as clip:
                try:
                    pixels = spans_of(clip, self.card.resolution, sampling_of(self.card), views)
                except BrokenClipError as error:
                    raise BadRowError(f"row {number}: video: {error}") from None
            with inference(self.module) as device:
                clips = normalise(torch.from_numpy(pixels), self.card.mean, self.card.std)
                one = self.module.encode_image(clips.transpose(1, 2).to(device))
            found.append(mean_direction(one.float()).cpu())
        return torch.stack(found) if found else torch.zeros(0, self.card.architecture.embed_dim)


def opened(row: Mapping[str, Any], number: int) -> ClipFile:
    """A row's video: the bytes of a file. Raises :class:`BadRowError`."""
    value = row.get("video")
    if not isinstance(value, bytes):
        raise BadRowError(f"row {number}: video must be an mp4, webm, mkv, avi or mov file")
    if len(value) > MOST_BYTES:
        raise BadRowError(
            f"row {number}: video of {len(value)} bytes is larger than the limit of {MOST_BYTES}"
        )
    try:
        return open_clip(value, LIMITS)
    except BrokenClipError as error:
        raise BadRowError(f"row {number}: video: {error}") from None


def _top(value: Any) -> int:
    value = 5 if value is None else value
    if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
        raise BadRowError(f"top must be a whole number of at least 1, not {value!r}")
    return int(value)


def _every(value: Any) -> float:
    value = 0.0 if value is None else value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadRowError(f"every must be a number of seconds, not {value!r}")
    if not 0 <= value < float("inf"):
        raise BadRowError(f"every must be a number of seconds from 0 on, not {value!r}")
    return float(value)
