"""The settings of a video stage: a tower of clips is trained to name actions, or beside texts."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Self

from pydantic import model_validator

from florence.config import ContrastiveLoss, Evaluate, RetrievalLabel, Settings, Training
from florence.config.base import Holds, location, setting, settings_group
from florence.config.evaluations import ActionRecognition, Pooling, VideoRetrieval
from florence.config.video import ClipSampling, VideoTower, Views
from florence.tasks.finetune.settings import RandAugmentSettings


class VideoMode(StrEnum):
    """What a tower of clips learns."""

    ACTIONS = "actions"
    RETRIEVAL = "retrieval"


class ActionHead(Settings):
    """Mode actions: a linear classifier on the tower's features, and its training."""

    dropout: float = setting(
        0.5, description="probability that a feature is dropped before the classifier", ge=0, lt=1
    )
    label_smoothing: float = setting(
        0.1, description="probability that is spread over all classes", ge=0, lt=1
    )
    tower_lr_scale: float = setting(
        0.1, description="what the tower's learning rate is multiplied by", gt=0
    )
    rand_augment: RandAugmentSettings = settings_group(
        RandAugmentSettings, description="random operations on clips, alike for all their frames"
    )
    mixup: float = setting(
        0.0,
        description="alpha of the Beta distribution from which the shares of two mixed clips are "
        "drawn; 0 mixes none. Partners are of one process, so the result depends on their number",
        ge=0,
    )
    cutmix: float = setting(
        0.0,
        description="the same for rectangles of one clip pasted into another; with both, either "
        "is drawn for each clip",
        ge=0,
    )


class ClipCaptions(Settings):
    """Mode retrieval: clips with one or more captions each."""

    label: RetrievalLabel = setting(
        RetrievalLabel.IMAGE,
        description="image: a clip's captions belong to it alone; text: equal captions of other "
        "clips are right too",
    )
    captions_per_clip: int = setting(
        20,
        description="captions used of each clip, the first ones; one of them is drawn every epoch",
        unit="captions",
        ge=1,
    )


_GROUPS: Mapping[str, VideoMode] = {
    "head": VideoMode.ACTIONS,
    "views": VideoMode.ACTIONS,
    "loss": VideoMode.RETRIEVAL,
    "captions": VideoMode.RETRIEVAL,
}
"""In which mode a group of settings means something."""


class Video(Training):
    """One stage that trains a tower of clips."""

    mode: VideoMode = setting(
        description="actions: a classifier of clips; retrieval: clips with captions, both towers "
        "trained with the loss of pretraining"
    )
    data: str = location(
        holds=Holds.DATA,
        description="URI of shards with .mp4 members, and .cls (actions) or .txt and captions in "
        ".json (retrieval): those that 'florencectl data import' writes from the field's files",
        affects_result=False,  # the fingerprint of the samples stands for it
        min_length=1,
    )
    batch_size: int = setting(
        64, description="clips per optimizer step over all ranks", unit="samples", ge=1
    )
    tower: VideoTower = settings_group(
        VideoTower, description="how the tower of clips is made of the image tower"
    )
    inflate: bool = setting(
        True,
        description="start the tower from the model's image tower, or tower of clips; no: from "
        "the seed, to see what that start is worth",
    )
    clip: ClipSampling = settings_group(ClipSampling, description="which frames are looked at")
    head: ActionHead = settings_group(
        ActionHead, description="mode actions: the classifier and its training"
    )
    loss: ContrastiveLoss = settings_group(
        ContrastiveLoss, description="mode retrieval: contrastive loss"
    )
    captions: ClipCaptions = settings_group(ClipCaptions, description="mode retrieval: captions")
    validation: str | None = location(
        None,
        holds=Holds.DATA,
        description="URI of held-out clips of the same form on which the model is measured",
        affects_result=False,
        min_length=1,
    )
    views: Views = settings_group(
        Views,
        description="mode actions: how often a held-out video is looked at",
        affects_result=False,
    )

    @model_validator(mode="after")
    def _fields_fit_the_mode(self) -> Self:
        for name, mode in _GROUPS.items():
            field = type(self).model_fields[name]
            if self.mode is not mode and getattr(self, name) != field.get_default(
                call_default_factory=True
            ):
                raise ValueError(
                    f"{field.alias or name} means nothing in mode {self.mode}, only in {mode}: "
                    "remove it"
                )
        if self.window is not None:
            raise ValueError("window is an image tower's: set tower.windows")
        if self.validation is not None and self.evaluation is not None:
            raise ValueError("give validation or evaluation, not both")
        return self

    @property
    def leaves(self) -> str:
        """The task of the model that the stage leaves."""
        return "actionRecognition" if self.mode is VideoMode.ACTIONS else "videoText"

    @property
    def starts_from(self) -> tuple[str, ...]:
        """The tasks of the models that the stage may start from: those with its towers."""
        if self.mode is VideoMode.RETRIEVAL:
            return ("contrastive", "videoText")
        return ("contrastive", "classification", "videoText", "actionRecognition")

    def evaluations(self, validation: str | None = None) -> Evaluate | None:
        """What is measured on held-out data.

        Args:
            validation: where that of the setting can be read; the setting itself by default.
        """
        data = validation or self.validation
        if data is None:
            return self.evaluation
        common = {"precision": self.precision, "workers": self.loader.workers}
        if self.mode is VideoMode.ACTIONS:
            one = ActionRecognition(name="actions", data=data, views=self.views)
            return Evaluate(action_recognition=(one,), **common)
        both = VideoRetrieval(
            name="video-retrieval", data=data, pooling=Pooling.CLIP, label=self.captions.label
        )
        return Evaluate(video_retrieval=(both,), **common)
