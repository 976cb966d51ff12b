"""Captions of images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

from florence.models.generation import Written, beam_search, greedy, sample
from florence.models.stored import StoredModel
from florence.tasks.caption import CAPTION
from florence.tasks.caption.model import CaptionModel, caption_model_of
from florence.tasks.predicting import BATCH, BadRowError, image_batches, image_of
from florence.tasks.vision_language.attention import attention_picture

LENGTH_PENALTY, NO_REPEAT = 1.0, 0


class CaptionPredictor:
    """See :class:`florence.tasks.task.Predictor`."""

    inputs = CAPTION.inputs

    def __init__(self, stored: StoredModel, device: torch.device) -> None:
        self.card = stored.card
        self.module = caption_model_of(stored, device)
        self._device = device

    @torch.no_grad()
    def predict(
        self, rows: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Per row its caption and the mean log-probability of its words; or the samples.

        Captions of one image are the same whatever other rows there are; samples too, by seed.
        """
        beams = _whole(parameters, "beams", least=1)
        samples = _whole(parameters, "sample", least=0)
        seed = _whole(parameters, "seed", least=0)
        temperature = _number(parameters, "temperature")
        answers: list[dict[str, Any]] = []
        for images in image_batches(rows, self.card, batch_size=BATCH):
            if samples:
                answers += self._sampled(images, samples, temperature, seed)
                continue
            written = write_captions(self.module, images.to(self._device), beams=beams)
            answers += [
                {"caption": text, "score": score}
                for text, score in zip(
                    self.module.texts(written.tokens), written.scores.tolist(), strict=True
                )
            ]
        return answers

    def attention(self, row: Mapping[str, Any], answer: Mapping[str, Any]) -> bytes:
        """A PNG of where the words of a row's caption look in its image."""
        text = str(answer["caption"] if "caption" in answer else answer["captions"][0])
        return attention_picture(self.module, self.card, image_of(row, 0), text, title=text)

    def _sampled(
        self, images: Tensor, samples: int, temperature: float, seed: int
    ) -> list[dict[str, Any]]:
        answers = []
        for image in images:
            repeated = image[None].expand(samples, -1, -1, -1).to(self._device)
            generator = torch.Generator().manual_seed(seed)
            how = self.module.writing(temperature=temperature)
            state = self.module.start(repeated)
            written = sample(self.module, state, samples, how, generator)
            answers.append({"captions": self.module.texts(written.tokens)})
        return answers


def write_captions(
    model: CaptionModel,
    images: Tensor,
    *,
    beams: int,
    length_penalty: float = LENGTH_PENALTY,
    no_repeat: int = NO_REPEAT,
) -> Written:
    """The best captions of images (B, 3, H, W) by so many beams; one is greedy."""
    how = model.writing(beams=beams, length_penalty=length_penalty, no_repeat=no_repeat)
    search = greedy if beams == 1 else beam_search
    return search(model, model.start(images), len(images), how)


def _whole(parameters: Mapping[str, Any], name: str, *, least: int) -> int:
    value = parameters.get(name)
    value = _default(name) if value is None else value
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise BadRowError(f"{name} must be a whole number of at least {least}, not {value!r}")
    return int(value)


def _number(parameters: Mapping[str, Any], name: str) -> float:
    value = parameters.get(name)
    value = _default(name) if value is None else value
    if isinstance(value, bool) or not isinstance(value, Real) or float(value) <= 0:
        raise BadRowError(f"{name} must be a number above 0, not {value!r}")
    return float(value)


def _default(name: str) -> Any:
    return next(each.default for each in CAPTION.inputs.parameters if each.name == name)
