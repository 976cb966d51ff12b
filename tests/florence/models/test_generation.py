"""Beam search finds what exhaustive search finds; sampling follows the probabilities."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from florence.models.generation import (
    Writing,
    beam_search,
    greedy,
    sample,
    sample_by,
    without_repeats,
)

START, END, PADDING = 0, 1, 4
VOCABULARY, LENGTH = 4, 4


@dataclass
class Seen:
    """The tokens of each text so far; a state that knows everything."""

    texts: list[tuple[int, ...]]
    images: list[int]

    def chosen(self, rows: Tensor) -> Seen:
        return Seen([self.texts[r] for r in rows.tolist()], [self.images[r] for r in rows.tolist()])


class Table:
    """Scores of the next token by image and all tokens before it."""

    device = torch.device("cpu")

    def __init__(self, images: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        texts = [
            text
            for size in range(LENGTH + 1)
            for text in itertools.product(range(VOCABULARY), repeat=size)
        ]
        self.logits = {
            (image, text): 2 * torch.randn(VOCABULARY, generator=generator)
            for image in range(images)
            for text in texts
        }
        self.calls = 0

    def start(self, images: int) -> Seen:
        return Seen([()] * images, list(range(images)))

    def step(self, tokens: Tensor, position: int, state: Any) -> tuple[Tensor, Any]:
        assert len(tokens) == len(state.texts)
        self.calls += 1
        texts = [
            (*text, token) if position else ()
            for text, token in zip(state.texts, tokens.tolist(), strict=True)
        ]
        assert all(len(text) == position for text in texts)
        rows = [self.logits[key] for key in zip(state.images, texts, strict=True)]
        return torch.stack(rows), Seen(texts, state.images)

    def score(self, image: int, text: tuple[int, ...]) -> float:
        total = 0.0
        for place, token in enumerate(text):
            total += float(self.logits[image, text[:place]].log_softmax(0)[token])
        return total


def how(**changes: Any) -> Writing:
    fields = {"start": START, "end": END, "padding": PADDING, "length": LENGTH, **changes}
    return Writing(**fields)


def every_text(no_repeat: int = 0) -> list[tuple[int, ...]]:
    """All texts that end, or are as long as they may be."""
    found = []
    for size in range(1, LENGTH + 1):
        for text in itertools.product(range(VOCABULARY), repeat=size):
            ends = text[-1] == END
            if END in text[:-1] or not (ends or size == LENGTH):
                continue
            windows = list(zip(*(text[i:] for i in range(no_repeat)), strict=False))
            if no_repeat and len(set(windows)) < len(windows):
                continue
            found.append(text)
    return found


@pytest.mark.parametrize("penalty", [-0.5, 0.0, 0.7, 1.0, 2.0])
@pytest.mark.parametrize("no_repeat", [0, 1, 2])
def test_with_enough_beams_it_is_exhaustive_search(penalty: float, no_repeat: int) -> None:
    table = Table(3, seed=int(10 * penalty) % 7 + no_repeat)
    writing = how(beams=VOCABULARY**LENGTH, length_penalty=penalty, no_repeat=no_repeat)
    found = beam_search(table, table.start(3), 3, writing)
    for image in range(3):
        scores = {
            text: table.score(image, text) / len(text) ** penalty for text in every_text(no_repeat)
        }
        best = max(scores, key=lambda text: scores[text])
        tokens = [token for token in found.tokens[image].tolist() if token != PADDING]
        assert tuple(tokens) == best
        assert float(found.scores[image]) == pytest.approx(scores[best], abs=1e-5)


def test_more_beams_are_never_worse_and_stop_no_later_than_they_must() -> None:
    for seed in range(20):
        table = Table(2, seed)
        few, many = (beam_search(table, table.start(2), 2, how(beams=beams)) for beams in (2, 64))
        assert (many.scores >= few.scores - 1e-6).all()
        for image in range(2):
            text = tuple(t for t in few.tokens[image].tolist() if t != PADDING)
            expected = table.score(image, text) / len(text)
            assert float(few.scores[image]) == pytest.approx(expected, abs=1e-5)


def test_greedy_takes_the_best_token_each_time_and_stops_at_the_end() -> None:
    table = Table(5, seed=3)
    found = greedy(table, table.start(5), 5, how())
    for image in range(5):
        text: tuple[int, ...] = ()
        while len(text) < LENGTH and END not in text:
            text = (*text, int(table.logits[image, text].argmax()))
        tokens = found.tokens[image].tolist()
        assert tuple(tokens[: len(text)]) == text
        assert set(tokens[len(text) :]) <= {PADDING}
        assert float(found.scores[image]) == pytest.approx(table.score(image, text), abs=1e-5)


def test_samples_follow_the_probabilities_and_the_generator() -> None:
    table = Table(1, seed=5)
    state = Seen([()] * 3000, [0] * 3000)
    draws = [
        sample(table, state, 3000, how(length=1, temperature=2.0), torch.Generator().manual_seed(s))
        for s in (1, 1, 2)
    ]
    assert torch.equal(draws[0].tokens, draws[1].tokens)
    assert not torch.equal(draws[0].tokens, draws[2].tokens)
    parts = torch.bincount(draws[0].tokens[:, 0], minlength=VOCABULARY) / 3000
    expected = (table.logits[0, ()] / 2).softmax(0)
    torch.testing.assert_close(parts, expected, atol=0.03, rtol=0)
    nucleus = sample(table, state, 3000, how(length=1, top_p=0.5), torch.Generator().manual_seed(1))
    falling = table.logits[0, ()].softmax(0).sort(descending=True)
    count = int((falling.values.cumsum(0) - falling.values < 0.5).sum())
    assert set(nucleus.tokens[:, 0].tolist()) == set(falling.indices[:count].tolist())


def test_texts_by_numbers_follow_the_probabilities_and_no_other_text() -> None:
    table, count = Table(2, seed=6), 3000
    chances = torch.rand(count, LENGTH, generator=torch.Generator().manual_seed(0)).double()
    state = Seen([()] * count, [n % 2 for n in range(count)])
    drawn = sample_by(table, state, how(temperature=2.0), chances)
    for image in range(2):
        first = torch.bincount(drawn.tokens[image::2, 0], minlength=VOCABULARY) / (count / 2)
        expected = (table.logits[image, ()] / 2).softmax(0)
        torch.testing.assert_close(first, expected, atol=0.04, rtol=0)
    few = sample_by(table, Seen([()] * 3, [1, 0, 1]), how(temperature=2.0), chances[[7, 2, 9]])
    for row, text in zip(few.tokens, drawn.tokens[[7, 2, 9]], strict=True):
        assert row.tolist() == text[: len(row)].tolist()
        assert set(text[len(row) :].tolist()) <= {PADDING}


def test_what_would_repeat_is_out() -> None:
    written = torch.tensor([[[7, 8, 7, 8, 9, 7]]])
    logs = without_repeats(torch.zeros(1, 1, 10), written, 2)
    assert (logs[0, 0] == -torch.inf).nonzero()[:, 0].tolist() == [8]
    logs = without_repeats(torch.zeros(1, 1, 10), written, 1)
    assert (logs[0, 0] == -torch.inf).nonzero()[:, 0].tolist() == [7, 8, 9]
    assert torch.equal(without_repeats(logs, written[:, :, :1], 3), logs)
