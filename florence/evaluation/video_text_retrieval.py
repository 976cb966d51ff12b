"""The evaluation ``videoRetrieval``: texts find their video, videos their texts.

The protocol is that of MSR-VTT 1K-A (JSFUSION's split; CLIP4Clip, arXiv 2104.08860): one caption
for each of a thousand videos, one frame a second and at most 12, R@1, R@5, R@10, median and mean
rank. A tie counts against the model.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from florence.config import RetrievalLabel
from florence.config.evaluations import VideoRetrieval
from florence.data.captions import captions_of
from florence.data.shards import BrokenSampleError
from florence.errors import DataError
from florence.evaluation.clips import StoredClips, open_clips, strip
from florence.evaluation.context import EvaluationContext, Prepared, Results
from florence.evaluation.ranking import NEVER, hit_rate, pessimistic_ranks
from florence.evaluation.video_embeddings import check_pooling, embeddings_of_clips, text_encoder

CUTOFFS = (1, 5, 10)
SHARPNESS = 100.0
"""What similarities are multiplied by before a softmax: the temperature of CLIP's models."""


def prepare(context: EvaluationContext, settings: VideoRetrieval) -> Prepared:
    """Open clips and captions.

    Raises:
        ConfigurationError: the model has no text tower.
        DataError: data is missing or broken, or a clip has no caption; names it.
    """
    where = f"videoRetrieval '{settings.name}'"
    model = text_encoder(context, where)
    check_pooling(context, settings, where)
    clips = open_clips(context, settings.data)
    captions = context.world.on_first(partial(_captions, clips, settings.captions_per_clip))
    texts = [caption for group in captions for caption in group]
    owners = torch.tensor([i for i, group in enumerate(captions) for _ in group])

    def run() -> Results:
        videos = embeddings_of_clips(context, clips, model, settings)
        sentences = context.over_texts(texts, model)
        if not context.world.is_first:
            return Results()
        scores = sentences @ videos.T
        right = right_pairs(texts, owners, len(clips), settings.label)
        metrics = retrieval_metrics(scores, right, dual_softmax=settings.dual_softmax)
        return Results(metrics=metrics, pictures={"clips": _picture(clips, scores, texts, owners)})

    return Prepared(len(clips) + len(set(texts)), run)


def right_pairs(texts: list[str], owners: Tensor, clips: int, label: RetrievalLabel) -> Tensor:
    """Which clip is right for which text: bool (texts, clips)."""
    right = torch.zeros(len(texts), clips, dtype=torch.bool)
    right[torch.arange(len(texts)), owners] = True
    if label is RetrievalLabel.IMAGE:
        return right
    numbers = {text: number for number, text in enumerate(dict.fromkeys(texts))}
    groups = torch.tensor([numbers[text] for text in texts])
    merged = torch.zeros(len(numbers), clips, dtype=torch.bool)
    merged.index_put_((groups, owners), torch.tensor(True))
    return merged[groups]


def retrieval_metrics(
    scores: Tensor, right: Tensor, *, dual_softmax: bool = False
) -> dict[str, float]:
    """R@K as fractions of 1, and median and mean rank from 1, both ways.

    Args:
        scores: (texts, clips) similarities.
        right: the same size, bool; every row and column has one at least.
        dual_softmax: weigh the scores of a direction by the softmax over its queries.
    """
    by_text = dual(scores) if dual_softmax else scores
    by_clip = dual(scores.T) if dual_softmax else scores.T
    found = {
        "textToVideo": ranks_of_best(by_text, right),
        "videoToText": ranks_of_best(by_clip, right.T),
    }
    metrics = {}
    for direction, ranks in found.items():
        for k in CUTOFFS:
            metrics[f"{direction}/R@{k}"] = hit_rate(ranks, k)
    for direction, ranks in found.items():
        counted = ranks.where(ranks != NEVER, right.numel()).double() + 1
        metrics[f"{direction}/medianRank"] = float(counted.quantile(0.5))
        metrics[f"{direction}/meanRank"] = float(counted.mean())
    return metrics


def dual(scores: Tensor) -> Tensor:
    """Each score times its share among all queries for the same candidate (queries first)."""
    return scores * (SHARPNESS * scores).softmax(dim=0)


def ranks_of_best(scores: Tensor, right: Tensor) -> Tensor:
    """Per row, how many wrong candidates score at least as high as the best right one."""
    best = scores.masked_fill(~right, -torch.inf).amax(dim=1)
    return pessimistic_ranks(scores, best, ~right)


def _captions(clips: StoredClips, most: int) -> tuple[tuple[str, ...], ...]:
    found = []
    for i in range(len(clips)):
        try:
            captions = captions_of(clips.shards.read(i))[:most]
        except BrokenSampleError as error:
            raise DataError(f"{clips.shards.uri}: {error}") from error
        if not captions[0]:
            raise DataError(f"{clips.shards.uri}: clip {clips.shards.key(i)} has no caption")
        found.append(captions)
    return tuple(found)


def _picture(clips: StoredClips, scores: Tensor, texts: list[str], owners: Tensor) -> bytes:
    """A few texts, each over the video that it found."""
    places = torch.linspace(0, len(texts) - 1, min(6, len(texts))).long().tolist()
    titles = []
    for row in places:
        best = int(scores[row].argmax())
        verdict = "right" if best == int(owners[row]) else "wrong"
        titles.append((best, f"'{texts[row][:90]}' found ({verdict}):"))
    return strip(clips, titles)
