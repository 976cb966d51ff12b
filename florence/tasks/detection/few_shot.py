"""Few-shot detection: which images are trained on.

The protocol is GLIP's (arXiv 2112.03857, 5.3), which the paper's table of eleven data sets uses:
images until every class has k boxes, three seeds, the rate falls on a plateau, training stops
early, the mean over the seeds counts. The whole of it as a job: ``florence_jobs.recipes.roboflow``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from florence.data.boxes import annotated_image
from florence.data.hashing import mix, permutation
from florence.data.shards import ShardSet
from florence.data.subset import ShardSubset
from florence.errors import DataError

SEEDS = (3, 30, 300)
COPIES: Mapping[int, int] = {1: 8, 3: 4, 5: 2, 10: 1}
"""How many times the protocol repeats its few images in an epoch, by shots."""
EPOCHS = 200
_SHOTS = 0x5407


def choose_images(
    images: Sequence[Sequence[str]], classes: Sequence[str], shots: int, seed: int
) -> list[int]:
    """Images so that every class has at least so many boxes among them.

    They are looked at in a random order, and one is taken when it has a box of a class that still
    lacks some. An image brings all its boxes, so that frequent classes get more than ``shots``.

    Args:
        images: for each, the class of every box that counts (no crowds).
        classes: those that must have boxes.
        shots: least boxes of a class.
        seed: decides the order.

    Returns:
        Their numbers, in the order in which they were taken.

    Raises:
        DataError: a class has fewer boxes in all images together; names it.
    """
    found = Counter(name for names in images for name in names)
    for name in classes:
        if found[name] < shots:
            raise DataError(
                f"class '{name}' has {found[name]} boxes, fewer than {shots} shots: choose fewer "
                "shots, or leave the class out"
            )
    lacking = dict.fromkeys(classes, shots)
    chosen = []
    for number in permutation(len(images), mix(_SHOTS, seed)).tolist():
        names = [name for name in images[number] if name in lacking]
        if not names:
            continue
        chosen.append(number)
        for name in names:
            if name in lacking:
                lacking[name] -= 1
                if lacking[name] <= 0:
                    del lacking[name]
        if not lacking:
            break
    return chosen


def few_images(shards: ShardSet, classes: Sequence[str], shots: int, seed: int) -> ShardSubset:
    """The part of a training set that :func:`choose_images` takes; reads all records.

    Raises:
        DataError: a class has too few boxes, or a sample has no record; names it.
    """
    images = []
    for i in range(len(shards)):
        try:
            record = annotated_image(shards.read_meta(i))
        except ValueError as error:
            raise DataError(f"{shards.shard_of(i)}: sample {shards.key(i)}: {error}") from error
        images.append([box.category for box in record.boxes if not box.crowd])
    try:
        return ShardSubset(shards, choose_images(images, classes, shots, seed))
    except DataError as error:
        raise DataError(f"{shards.uri}: {error}") from error
