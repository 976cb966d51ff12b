"""The settings of a fine-tuning stage: a trained model is adapted to, or probed on, other data."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import ClassVar, Self

from pydantic import field_validator, model_validator

from florence.config import (
    PROMPT_SETS,
    Classification,
    ContrastiveLoss,
    Evaluate,
    Retrieval,
    RetrievalFormat,
    RetrievalLabel,
    Settings,
    Training,
    ZeroShot,
)
from florence.config.base import Holds, location, setting, settings_group


class Mode(StrEnum):
    """How a model is adapted."""

    CONTRASTIVE = "contrastive"
    HEAD = "head"
    LINEAR_PROBE = "linearProbe"
    FEW_SHOT = "fewShot"
    RETRIEVAL = "retrieval"


class HeadKind(StrEnum):
    """What turns features into scores of classes."""

    LINEAR = "linear"
    MLP = "mlp"


class RandAugmentSettings(Settings):
    """Random operations on training images (RandAugment, arXiv 1909.13719)."""

    operations: int = setting(
        2, description="operations drawn for each image, one after the other; 0 for none", ge=0
    )
    magnitude: float = setting(
        9.0,
        description="strength of the operations, of 10; the paper uses 9 for ImageNet",
        ge=0,
        le=10,
    )


class Head(Settings):
    """Mode head: a classifier on the image tower's features before the projection."""

    kind: HeadKind = setting(HeadKind.LINEAR, description="linear, or mlp with one hidden layer")
    hidden: int | None = setting(
        None,
        description="kind mlp: hidden width. Default: that of the features",
        unit="channels",
        ge=1,
    )
    dropout: float = setting(
        0.0, description="probability that a feature is dropped before the last layer", ge=0, lt=1
    )
    label_smoothing: float = setting(
        0.1, description="probability that is spread over all classes", ge=0, lt=1
    )
    lr_scale: float = setting(
        1.0, description="what the head's learning rate is multiplied by", gt=0
    )
    frozen_tower: bool = setting(
        False, description="train the head only; the image tower stays as it is"
    )
    mixup: float = setting(
        0.0,
        description="alpha of the Beta distribution from which the shares of two mixed images are "
        "drawn; 0 mixes none. Partners are of one process, so the result depends on their number",
        ge=0,
    )
    rand_augment: RandAugmentSettings = settings_group(
        RandAugmentSettings, description="random operations on training images"
    )


class CaptionPairs(Settings):
    """Mode retrieval: images with one or more captions each."""

    label: RetrievalLabel = setting(
        RetrievalLabel.IMAGE,
        description="image: copies of an image are positives of each other, whatever their "
        "captions; text: equal captions are",
    )
    captions_per_image: int = setting(
        5,
        description="captions used of each image, the first ones; one of them is drawn every epoch",
        unit="captions",
        ge=1,
    )


class LinearProbeSettings(Settings):
    """Mode linearProbe: logistic regression on frozen features (CLIP, arXiv 2103.00020, A.3)."""

    search_data: str | None = location(
        None,
        holds=Holds.DATA,
        description="URI of the images on which the L2 strength is chosen, beside data. Default: "
        "a part of data",
        min_length=1,
    )
    search_fraction: float = setting(
        0.2,
        description="without searchData: the part of each class of data on which the L2 strength "
        "is chosen",
        gt=0,
        lt=1,
    )
    strength_min: float = setting(1e-6, description="weakest L2 strength tried", gt=0)
    strength_max: float = setting(1e6, description="strongest L2 strength tried", gt=0)
    strengths: int = setting(
        97, description="strengths between them, evenly spaced on a logarithmic axis", ge=2
    )
    max_iterations: int = setting(
        1_000, description="iterations of L-BFGS for each strength", unit="iterations", ge=1
    )

    @model_validator(mode="after")
    def _range_rises(self) -> Self:
        if self.strength_min >= self.strength_max:
            raise ValueError("strengthMin must be below strengthMax")
        return self


class FewShotSettings(Settings):
    """Mode fewShot: episodes of CD-FSL; the defaults are the benchmark's and the paper's."""

    ways: int = setting(5, description="classes of an episode", unit="classes", ge=2)
    shots: tuple[int, ...] = setting(
        (5, 20, 50), description="training images of each class; one result for each number"
    )
    queries: int = setting(
        15, description="images of each class that are classified", unit="images", ge=1
    )
    episodes: int = setting(
        600, description="episodes for each number of shots", unit="episodes", ge=1
    )
    epochs: int = setting(
        100, description="passes over an episode's training images", unit="epochs", ge=1
    )
    support_batch: int = setting(4, description="training images of a step", unit="images", ge=1)
    dropout: float = setting(
        0.5, description="probability that a feature is dropped before the head", ge=0, lt=1
    )
    head_lr: float = setting(1e-2, description="learning rate of the head (SGD)", gt=0)
    head_momentum: float = setting(0.99, description="momentum of the head", ge=0, lt=1)
    tower_lr: float = setting(2e-4, description="learning rate of the image tower (SGD)", gt=0)
    tower_momentum: float = setting(0.9, description="momentum of the image tower", ge=0, lt=1)
    weight_decay: float = setting(0.0, description="L2 penalty of both", ge=0)
    flip: bool = setting(
        True, description="mirror training images at random, and average both logits at test"
    )
    frozen_tower: bool = setting(
        False, description="train the head only, on features computed once: much faster"
    )

    @field_validator("shots")
    @classmethod
    def _shots_are_counts(cls, shots: tuple[int, ...]) -> tuple[int, ...]:
        if not shots or min(shots) < 1 or len(set(shots)) < len(shots):
            raise ValueError("give different numbers of at least 1")
        return shots


_GROUPS: Mapping[str, tuple[Mode, ...]] = {
    "head": (Mode.HEAD,),
    "pairs": (Mode.RETRIEVAL,),
    "loss": (Mode.CONTRASTIVE, Mode.RETRIEVAL),
    "linear_probe": (Mode.LINEAR_PROBE,),
    "few_shot": (Mode.FEW_SHOT,),
    "prompts": (Mode.CONTRASTIVE, Mode.HEAD, Mode.LINEAR_PROBE),
    "compare_with_scratch": (Mode.LINEAR_PROBE, Mode.FEW_SHOT),
    "steps": (Mode.CONTRASTIVE, Mode.HEAD, Mode.RETRIEVAL),
    "epochs": (Mode.CONTRASTIVE, Mode.HEAD, Mode.RETRIEVAL),
    "validation": (Mode.CONTRASTIVE, Mode.HEAD, Mode.RETRIEVAL, Mode.LINEAR_PROBE),
}
"""In which modes a field means something."""


class Finetune(Training):
    """One fine-tuning stage."""

    closed_form: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "mode": (Mode.LINEAR_PROBE.value, Mode.FEW_SHOT.value)
    }

    mode: Mode = setting(
        description="contrastive: class names as texts, the loss of pretraining; head: a "
        "classifier on the image tower; linearProbe: logistic regression on frozen features; "
        "fewShot: many small tasks of few images; retrieval: images with captions"
    )
    data: str = location(
        holds=Holds.DATA,
        description="URI of the training images: shards, a folder with one sub-folder per class, "
        "a csv file (image,label), or for retrieval a Karpathy json; builtin:digits/train",
        affects_result=False,  # the fingerprint of the samples stands for it
        min_length=1,
    )
    batch_size: int = setting(
        256,
        description="samples per optimizer step over all ranks; linearProbe and fewShot: images "
        "that each rank embeds at once",
        unit="samples",
        ge=1,
    )
    prompts: str | None = location(
        None,
        holds=Holds.PROMPTS,
        description="class names in the order of the classes, with the templates that mode "
        f"contrastive puts them into: one of {', '.join(PROMPT_SETS)}, or a YAML file as for "
        "evaluate.zeroShot. Default in modes head and linearProbe: the data's own names",
        names=PROMPT_SETS,
        min_length=1,
    )
    validation: str | None = location(
        None,
        holds=Holds.DATA,
        description="URI of held-out data of the same form on which the model is measured: by "
        "texts, by its head, or by retrieval, as the mode says",
        affects_result=False,
        min_length=1,
    )
    head: Head = settings_group(Head, description="mode head: the classifier and its training")
    loss: ContrastiveLoss = settings_group(
        ContrastiveLoss, description="modes contrastive and retrieval: contrastive loss"
    )
    pairs: CaptionPairs = settings_group(
        CaptionPairs, description="mode retrieval: captions and labels"
    )
    linear_probe: LinearProbeSettings = settings_group(
        LinearProbeSettings, description="mode linearProbe: search of the L2 strength"
    )
    few_shot: FewShotSettings = settings_group(
        FewShotSettings, description="mode fewShot: episodes and their training"
    )
    compare_with_scratch: bool = setting(
        False,
        description="modes linearProbe and fewShot: repeat the measurement with a freshly "
        "initialised image tower, as metrics .../scratch. Elsewhere add a stage without a model "
        "to start from",
    )

    @model_validator(mode="after")
    def _fields_fit_the_mode(self) -> Self:
        for name, modes in _GROUPS.items():
            field = type(self).model_fields[name]
            default = field.get_default(call_default_factory=True)
            if self.mode not in modes and getattr(self, name) != default:
                used = " and ".join(modes)
                raise ValueError(
                    f"{field.alias} means nothing in mode {self.mode}, only in {used}: remove it"
                )
        if self.mode is Mode.CONTRASTIVE and self.prompts is None:
            raise ValueError(
                "mode contrastive needs prompts: the name of a set, or a YAML file with the lists "
                "'classes' and 'templates'"
            )
        if self.validation is not None and self.evaluation is not None:
            raise ValueError("give validation or evaluation, not both")
        if self.mode is Mode.FEW_SHOT and self.evaluation is not None:
            raise ValueError("evaluation means nothing in mode fewShot, which leaves no model")
        return self

    @property
    def leaves(self) -> str | None:
        """The task of the model that the stage leaves; ``None`` when it leaves none."""
        if self.mode is Mode.FEW_SHOT:
            return None
        return "classification" if self.mode in (Mode.HEAD, Mode.LINEAR_PROBE) else "contrastive"

    @property
    def starts_from(self) -> tuple[str, ...]:
        """The tasks of the models that the stage may start from: those with the parts it trains."""
        if self.mode in (Mode.CONTRASTIVE, Mode.RETRIEVAL):
            return ("contrastive",)
        return ("contrastive", "classification")

    def evaluations(self, validation: str | None = None) -> Evaluate | None:
        """What is measured on held-out data.

        Args:
            validation: where that of the setting can be read; the setting itself by default.
        """
        data = validation or self.validation
        if data is None:
            return self.evaluation
        common = {"precision": self.precision, "workers": self.loader.workers}
        if self.mode is Mode.RETRIEVAL:
            is_json = data.endswith(".json")
            one = Retrieval(
                name="retrieval",
                data=data,
                format=RetrievalFormat.KARPATHY if is_json else RetrievalFormat.SHARDS,
                captions_per_image=self.pairs.captions_per_image,
                label=self.pairs.label,
            )
            return Evaluate(retrieval=(one,), **common)
        if self.mode is Mode.CONTRASTIVE:
            assert self.prompts is not None
            zero_shot = ZeroShot(name="contrastive", data=data, prompts=self.prompts)
            return Evaluate(zero_shot=(zero_shot,), **common)
        name = "linear-probe" if self.mode is Mode.LINEAR_PROBE else "head"
        return Evaluate(
            classification=(Classification(name=name, data=data, labels=self.prompts),), **common
        )
