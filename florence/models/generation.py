"""Texts written token by token: greedily, by beam search, or by sampling.

Shapes: B images, K beams, T tokens written so far, V words.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, Self

import torch
from torch import Tensor


class DecodingState(Protocol):
    """What a decoder remembers of the tokens before."""

    def chosen(self, rows: Tensor) -> Self:
        """That of some texts, (n,) int64, in their order; the images stay."""


class Decoder(Protocol):
    """What scores the next token."""

    @property
    def device(self) -> torch.device:
        """Where tokens go and logits come from."""

    def step(
        self, tokens: Tensor, position: int, state: DecodingState
    ) -> tuple[Tensor, DecodingState]:
        """Logits (n, V) of what follows ``tokens`` (n,) int64, which stand at ``position``."""


@dataclass(frozen=True, kw_only=True)
class Writing:
    """How texts are written.

    Attributes:
        start, end, padding: ids of these tokens.
        length: most tokens of a text beside ``start``.
        beams: texts that are followed at once for each image; 1 is greedy.
        length_penalty: a text's score is the sum of its tokens' log-probabilities over their
            number to this power; above 0 long texts are preferred.
        no_repeat: sequences of so many tokens stand in a text once; 0: as often as they like.
        temperature: what logits are divided by when sampling.
        top_p: sampling takes the most probable tokens that have this probability together.
    """

    start: int
    end: int
    padding: int
    length: int
    beams: int = 4
    length_penalty: float = 1.0
    no_repeat: int = 0
    temperature: float = 1.0
    top_p: float = 1.0


@dataclass(frozen=True)
class Written:
    """Texts: tokens (B, T) int64 without start, padded behind the end; and their scores (B,).

    Of a beam search the score is that by which it chose; of sampling the sum of log-probabilities.
    """

    tokens: Tensor
    scores: Tensor


@torch.no_grad()
def beam_search(decoder: Decoder, state: DecodingState, images: int, how: Writing) -> Written:
    """The best text of each image, as far as so many beams find it.

    A text ends with the end token or at the greatest length. The search goes on until no beam can
    become better than the finished texts that are kept, so that with enough beams it is exhaustive.

    Args:
        decoder: scores tokens.
        state: of B texts at their start.
        images: B.
        how: see :class:`Writing`.
    """
    search = _Search(images, how, state)
    for position in range(how.length):
        search.advance(decoder, position)
        if search.is_over(position + 1):
            break
    return search.best()


class _Search:
    """The beams of all images, and the finished texts that are kept, K for each."""

    def __init__(self, images: int, how: Writing, state: DecodingState) -> None:
        """The state is that of one text of each image: at the start all beams are alike."""
        self.how, self.images = how, images
        self.state = state
        self.tokens: Tensor | None = None
        self.scores: Tensor | None = None
        self.finished: Tensor | None = None
        self.kept: Tensor | None = None

    def advance(self, decoder: Decoder, position: int) -> None:
        """One more token for every beam."""
        how, b, k = self.how, self.images, self.how.beams
        last = torch.full((b,), how.start, device=decoder.device)
        if self.tokens is not None:
            last = self.tokens[:, :, -1].reshape(-1)
        logits, self.state = decoder.step(last, position, self.state)
        logs = logits.float().log_softmax(dim=-1).view(b, -1, logits.shape[-1])
        if self.tokens is None or self.scores is None:
            self.tokens = last.new_zeros(b, 1, 0)
            self.scores = logs.new_zeros(b, 1)
            self.finished = logs.new_full((b, k), -torch.inf)
            self.kept = last.new_full((b, k, how.length), how.padding)
        logs = without_repeats(logs, self.tokens, how.no_repeat)
        words = logs.shape[-1]
        ends = logs[:, :, how.end] + self.scores
        going = self.scores[:, :, None] + logs
        going[:, :, how.end] = -torch.inf
        is_last = position + 1 == how.length
        before = going.shape[1]
        best, index = going.view(b, -1).topk(min(k, before * words), dim=1)
        beams, tokens = index // words, index % words
        longer = torch.cat([self._of(beams), tokens[:, :, None]], dim=2)
        self._keep(ends, self.tokens, position + 1, end=True)
        if is_last:
            self._keep(best, longer, position + 1, end=False)
        self.tokens, self.scores = longer, best
        rows = beams + before * torch.arange(b, device=beams.device)[:, None]
        self.state = self.state.chosen(rows.reshape(-1))

    def is_over(self, written: int) -> bool:
        """Whether no beam can become better than the worst text that is kept."""
        assert self.scores is not None
        assert self.finished is not None
        penalty = self.how.length_penalty
        # Scores fall with every token; divided by a greater length they may still rise.
        longest = self.how.length if penalty > 0 else written + 1
        attainable = self.scores[:, 0] / longest**penalty
        return bool((attainable <= self.finished[:, -1]).all())

    def best(self) -> Written:
        """The best finished text of each image."""
        assert self.finished is not None
        assert self.kept is not None
        return Written(trimmed(self.kept[:, 0], self.how.padding), self.finished[:, 0])

    def _of(self, beams: Tensor) -> Tensor:
        assert self.tokens is not None
        index = beams[:, :, None].expand(-1, -1, self.tokens.shape[2])
        return self.tokens.gather(1, index)

    def _keep(self, scores: Tensor, tokens: Tensor, length: int, *, end: bool) -> None:
        """Take finished texts in: of theirs and the kept ones the best stay."""
        assert self.finished is not None
        assert self.kept is not None
        texts = self.kept.new_full((*tokens.shape[:2], self.how.length), self.how.padding)
        texts[:, :, : tokens.shape[2]] = tokens
        if end:
            texts[:, :, length - 1] = self.how.end
        both = torch.cat([self.finished, scores / length**self.how.length_penalty], dim=1)
        self.finished, index = both.topk(self.how.beams, dim=1)
        every = torch.cat([self.kept, texts], dim=1)
        self.kept = every.gather(1, index[:, :, None].expand(-1, -1, self.how.length))


def sample(
    decoder: Decoder,
    state: DecodingState,
    images: int,
    how: Writing,
    generator: torch.Generator,
) -> Written:
    """One text of each image, drawn token by token; a function of its arguments.

    Args:
        decoder, state, images, how: those of :func:`beam_search`; ``beams`` does not matter.
        generator: of the draws, on the CPU.
    """

    def drawn(logs: Tensor) -> Tensor:
        chances = _nucleus(logs.cpu(), how)
        return torch.multinomial(chances, 1, generator=generator)[:, 0].to(logs.device)

    return _token_by_token(decoder, state, images, how, drawn)


def sample_by(decoder: Decoder, state: DecodingState, how: Writing, chances: Tensor) -> Written:
    """Texts that numbers decide, so that no text depends on which others are drawn beside it.

    Args:
        decoder, state, how: those of :func:`sample`.
        chances: float64 (n, T) in [0, 1), by text and token; T is at least the greatest length.
    """
    columns = iter(chances.unbind(dim=1))

    def drawn(logs: Tensor) -> Tensor:
        rising = _nucleus(logs, how).double().cumsum(dim=-1)
        passed = rising <= next(columns)[:, None] * rising[:, -1:]
        return passed.sum(dim=-1).clamp(max=logs.shape[-1] - 1)

    return _token_by_token(decoder, state, len(chances), how, drawn)


def greedy(decoder: Decoder, state: DecodingState, images: int, how: Writing) -> Written:
    """One text of each image, of the most probable token each time.

    Args:
        decoder, state, images, how: those of :func:`beam_search`; ``beams`` does not matter.
    """
    return _token_by_token(decoder, state, images, how, lambda logs: logs.argmax(dim=-1))


@torch.no_grad()
def _token_by_token(
    decoder: Decoder,
    state: DecodingState,
    images: int,
    how: Writing,
    choose: Callable[[Tensor], Tensor],
) -> Written:
    """Texts whose next tokens ``choose`` takes of log-probabilities (B, V)."""
    tokens: list[Tensor] = []
    last = torch.full((images,), how.start, device=decoder.device)
    over = torch.zeros(images, dtype=torch.bool, device=decoder.device)
    scores = torch.zeros(images, device=decoder.device)
    for position in range(how.length):
        logits, state = decoder.step(last, position, state)
        logs = logits.float().log_softmax(dim=-1)
        written = torch.stack(tokens, dim=1) if tokens else last.new_zeros(images, 0)
        kept = without_repeats(logs[:, None], written[:, None], how.no_repeat)[:, 0]
        chosen = choose(kept)
        scores += logs.gather(1, chosen[:, None])[:, 0].masked_fill(over, 0.0)
        tokens.append(chosen.masked_fill(over, how.padding))
        chosen = chosen.masked_fill(over, how.end)
        over |= chosen == how.end
        if bool(over.all()):
            break
        last = chosen
    return Written(trimmed(torch.stack(tokens, dim=1), how.padding), scores)


def _nucleus(logs: Tensor, how: Writing) -> Tensor:
    """Probabilities (B, V) of the most probable tokens; a draw scales them to 1."""
    chances = (logs / how.temperature).softmax(dim=-1)
    if how.top_p >= 1:
        return chances
    falling, order = chances.sort(dim=-1, descending=True)
    before = falling.cumsum(dim=-1) - falling
    falling = falling.masked_fill(before >= how.top_p, 0.0)
    return torch.zeros_like(chances).scatter(1, order, falling)


def without_repeats(logs: Tensor, written: Tensor, size: int) -> Tensor:
    """Scores with those tokens at -inf that would repeat a sequence.

    Args:
        logs: (B, K, V).
        written: (B, K, T) tokens.
        size: tokens of a sequence that may stand in a text once; 0 allows all.
    """
    length = written.shape[2]
    if not size or length < size:
        return logs
    windows = written.unfold(2, size, 1)
    start = written[:, :, length - size + 1 :]
    same = (windows[:, :, :, :-1] == start[:, :, None]).all(dim=-1)
    banned = torch.zeros_like(logs, dtype=torch.int8)
    banned.scatter_reduce_(2, windows[:, :, :, -1], same.to(torch.int8), "amax")
    return logs.masked_fill(banned.bool(), -torch.inf)


def trimmed(tokens: Tensor, padding: int) -> Tensor:
    """Tokens (B, T) without columns that are all padding behind the last text's end."""
    used = (tokens != padding).any(dim=0).nonzero()
    return tokens[:, : int(used[-1]) + 1 if len(used) else 0]
