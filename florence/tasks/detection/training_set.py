"""What a detector is trained on: images with boxes, and the names of what it is to find."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from florence.config.storage import S3Settings
from florence.data.shards import Need, ShardSet
from florence.data.subset import ShardSubset
from florence.data.vocabularies import NAME, Vocabularies, all_names, read_vocabularies
from florence.errors import ConfigurationError, DataError
from florence.stages.context import StageContext
from florence.stages.training_data import open_training_shards
from florence.storage import open_storage
from florence.tasks.detection.few_shot import few_images
from florence.tasks.detection.objects import ObjectReader
from florence.tasks.detection.settings import Detection


@dataclass(frozen=True)
class TrainingSet:
    """Shards with boxes.

    Attributes:
        shards: the images.
        vocabularies: the names that each data set among them looked for.
        classes: what the detector tells apart, in the order of its outputs.
        attributes: what it says of objects beside that.
    """

    shards: ShardSet
    vocabularies: Vocabularies
    classes: tuple[str, ...]
    attributes: tuple[str, ...]

    def objects(self, *, class_agnostic: bool) -> ObjectReader:
        """Makes objects of the images' records."""
        return ObjectReader(
            self.classes,
            self.vocabularies,
            attributes=self.attributes or None,
            class_agnostic=class_agnostic,
        )


def open_training_set(context: StageContext, settings: Detection) -> TrainingSet:
    """What the settings name, read by rank 0 for all ranks; collective.

    Raises:
        ConfigurationError: there are other classes than the settings expect.
        DataError: there is no data with boxes.
    """
    shards = open_training_shards(context, settings.data, need=Need.IMAGE)
    vocabularies = context.world.on_first(lambda: vocabularies_of(shards))
    classes = all_names(vocabularies)
    if settings.classes is not None and settings.classes != len(classes):
        raise ConfigurationError(
            f"classes: the stage expects {settings.classes} and {settings.data} has "
            f"{len(classes)}: correct it, or leave it out"
        )
    if settings.shots is not None:
        shards = _few(context, settings, shards, classes)
    attributes: tuple[str, ...] = ()
    if settings.attributes is not None:
        uri = settings.attributes
        attributes = context.world.on_first(lambda: lines_of(uri, context.s3))
    return TrainingSet(shards, vocabularies, classes, attributes)


def _few(
    context: StageContext, settings: Detection, shards: ShardSet, classes: Sequence[str]
) -> ShardSubset:
    """The images of a few-shot stage, chosen by rank 0; collective."""
    shots, seed = settings.shots or 0, settings.shots_seed
    indices = context.world.on_first(lambda: few_images(shards, classes, shots, seed).indices)
    return ShardSubset(shards, indices)


def vocabularies_of(shards: ShardSet) -> Vocabularies:
    """Those beside the shards. Raises :class:`DataError` when there are none."""
    found = read_vocabularies(shards.storage)
    if found is None:
        raise DataError(
            f"{shards.storage.url(NAME)} is missing: nothing says what its boxes may be: import "
            "the data with 'florencectl data import'"
        )
    return found


def lines_of(uri: str, s3: S3Settings) -> tuple[str, ...]:
    """The different lines of a text file. Raises :class:`DataError` when there are none."""
    folder, _, name = uri.rpartition("/")
    try:
        lines: Sequence[str] = open_storage(folder or ".", s3).read(name).decode().splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{uri} is not UTF-8: {error.reason}: write one name a line") from error
    names = tuple(dict.fromkeys(line.strip() for line in lines if line.strip()))
    if not names:
        raise DataError(f"{uri} names nothing: write one name a line")
    return names
