"""Episodes (science.md E4) and what training within one leaves behind."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from florence.errors import DataError
from florence.evaluation.few_shot import (
    draw_episode,
    episode_seed,
    few_shot_result,
    share_of_episodes,
)
from florence.evaluation.few_shot_training import EpisodeTraining, train_episode, train_head


@st.composite
def problems(draw: st.DrawFn) -> tuple[np.ndarray, int, int, int]:
    """Labels of which enough classes have enough images, some too few, and the episode's sizes."""
    ways, shots, queries = (draw(st.integers(1, n)) for n in (5, 4, 4))
    counts = draw(st.lists(st.integers(0, 12), min_size=ways, max_size=9))
    counts[:ways] = [count + shots + queries for count in counts[:ways]]
    labels = np.repeat(np.arange(len(counts)), counts)
    order = draw(st.permutations(range(len(labels)))) if len(labels) < 40 else range(len(labels))
    return labels[list(order)], ways, shots, queries


@given(problems(), st.integers(0, 600), st.integers(0, 2**31))
@settings(deadline=None)
def test_episodes_are_balanced_disjoint_and_of_the_right_classes(
    problem: tuple[np.ndarray, int, int, int], number: int, seed: int
) -> None:
    labels, ways, shots, queries = problem
    sizes = {"ways": ways, "shots": shots, "queries": queries}
    episode = draw_episode(labels, number, seed=seed, **sizes)
    assert episode.support.shape == (ways, shots)
    assert episode.query.shape == (ways, queries)
    assert len(set(episode.classes.tolist())) == ways
    rows = np.concatenate([episode.support, episode.query], axis=1)
    assert len(np.unique(rows)) == rows.size
    assert (labels[rows] == episode.classes[:, None]).all()
    again = draw_episode(labels, number, seed=seed, **sizes)
    assert (again.support == episode.support).all()
    assert (again.query == episode.query).all()


def test_episodes_differ_by_number_and_seed_and_use_every_class_and_image() -> None:
    labels = np.arange(200) % 8
    episodes = [draw_episode(labels, n) for n in range(300)]
    assert len({e.support.tobytes() for e in episodes}) == 300
    other = [draw_episode(labels, n, seed=1) for n in range(300)]
    assert {e.support.tobytes() for e in episodes}.isdisjoint(e.support.tobytes() for e in other)
    drawn = np.bincount(np.concatenate([e.classes for e in episodes]), minlength=8)
    # 5 of 8 classes an episode: 187.5 of 300 each, with a standard deviation of 8.4.
    assert np.abs(drawn - 187.5).max() < 5 * 8.4
    used = np.concatenate([e.support.ravel() for e in episodes])
    assert len(np.unique(used)) == 200


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_processes_share_the_episodes_out(size: int) -> None:
    shares = [share_of_episodes(20, rank, size) for rank in range(size)]
    assert sorted(n for share in shares for n in share) == list(range(20))


def test_too_little_data_is_refused() -> None:
    labels = np.repeat(np.arange(6), [20, 20, 20, 20, 19, 3])
    with pytest.raises(DataError, match="4 classes have the 20 images"):
        draw_episode(labels, 0)
    assert draw_episode(labels, 0, queries=14).support.shape == (5, 5)
    with pytest.raises(DataError, match="no episodes"):
        few_shot_result([])


def test_mean_and_interval_are_the_textbooks() -> None:
    values = [0.5, 0.7, 0.9, 0.5]
    result = few_shot_result(values)
    assert result.mean == pytest.approx(0.65)
    sigma = math.sqrt(sum((v - 0.65) ** 2 for v in values) / 4)
    assert result.interval == pytest.approx(1.96 * sigma / 2)
    assert few_shot_result([0.4]).interval == 0


class Tower(nn.Module):
    """Small, but with what must be put back: a norm with buffers, and dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, stride=2)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.1)

    def forward(self, images: Tensor) -> Tensor:
        return self.drop(torch.relu(self.norm(self.conv(images)))).mean((2, 3))


@pytest.fixture
def tower() -> Tower:
    torch.manual_seed(0)
    return Tower()


def episode_images(seed: int, each: int) -> Tensor:
    """Three classes that differ in colour."""
    generator = torch.Generator().manual_seed(seed)
    images = 0.3 * torch.randn(3, each, 3, 9, 9, generator=generator)
    for channel in range(3):
        images[channel, :, channel] += 1
    return images


SHORT = EpisodeTraining(epochs=15, backbone_lr=1e-2)


def test_an_episode_learns_and_leaves_no_trace(tower: Tower) -> None:
    tower.norm.eval()
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    tower.conv.bias.grad = torch.full((6,), 3.0)
    modes = [module.training for module in tower.modules()]
    state = torch.get_rng_state()
    score = train_episode(
        tower, tower, episode_images(0, 5), episode_images(1, 8), seed=3, training=SHORT
    )
    assert score > 0.9
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in tower.modules()] == modes
    assert before.keys() == tower.state_dict().keys()
    for name, value in tower.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert tower.conv.bias.grad.tolist() == [3.0] * 6
    assert tower.conv.weight.grad is None


def test_the_tower_is_put_back_when_an_episode_fails(tower: Tower) -> None:
    before = {name: value.clone() for name, value in tower.state_dict().items()}
    calls = 0

    def failing(images: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls > 8:
            raise RuntimeError("out of memory")
        return tower(images)

    images = episode_images(0, 5)
    with pytest.raises(RuntimeError, match="out of memory"):
        train_episode(tower, failing, images, images, seed=3, training=SHORT)
    assert all(torch.equal(v, before[n]) for n, v in tower.state_dict().items())


def test_an_episode_is_a_function_of_its_seed_whatever_came_before(tower: Tower) -> None:
    """Noise for images: accuracies differ from seed to seed unless something leaks."""
    generator = torch.Generator().manual_seed(5)
    support, query = (torch.randn(3, n, 3, 9, 9, generator=generator) for n in (4, 30))

    def run(number: int) -> float:
        return train_episode(
            tower, tower, support, query, seed=episode_seed(0, number), training=SHORT
        )

    first = [run(n) for n in range(4)]
    torch.manual_seed(99)
    assert [run(n) for n in reversed(range(4))] == first[::-1]
    assert len(set(first)) > 1


def test_both_groups_learn_at_their_own_rate(tower: Tower) -> None:
    moved: dict[str, float] = {}
    images, start = episode_images(0, 2), tower.conv.weight.detach().clone()

    def watched(batch: Tensor) -> Tensor:
        moved["conv"] = float((tower.conv.weight.detach() - start).abs().max())
        return tower(batch)

    for rate in (0.0, 1e-2):
        train_episode(
            tower,
            watched,
            images,
            images,
            seed=0,
            training=EpisodeTraining(epochs=2, backbone_lr=rate),
        )
        assert (moved["conv"] > 0) == (rate > 0)


def test_a_test_image_and_its_mirror_count_the_same() -> None:
    """With flips the logits are those of both, so the accuracy of the mirrored query is equal."""
    generator = torch.Generator().manual_seed(2)
    support, query = (torch.randn(4, n, 3, 6, 6, generator=generator) for n in (3, 20))
    tower = nn.Flatten()

    def run(images: Tensor, flip: bool) -> float:
        training = EpisodeTraining(epochs=3, flip=flip)
        return train_episode(tower, tower, support, images, seed=1, training=training)

    assert run(query, True) == run(query.flip(-1), True)
    assert run(query, False) != run(query.flip(-1), False)


def test_a_head_on_frozen_features_is_a_frozen_episode(tower: Tower) -> None:
    """The fast variant draws as the slow one does, so without dropout in the tower they agree."""
    tower.eval().requires_grad_(False)
    support, query = episode_images(0, 5) * 0.1, episode_images(1, 40) * 0.1

    class Frozen(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return tower(images)

    def features(images: Tensor) -> Tensor:
        with torch.no_grad():
            return tower(images.flatten(0, 1)).unflatten(0, images.shape[:2])

    training = EpisodeTraining(epochs=4)
    frozen = Frozen()
    slow = train_episode(frozen, frozen, support, query, seed=7, training=training)
    fast = train_head(
        features(support),
        features(query),
        support_flipped=features(support.flip(-1)),
        query_flipped=features(query.flip(-1)),
        seed=7,
        training=training,
    )
    assert fast == pytest.approx(slow, abs=1 / 120)
