"""What a user sets of each kind of evaluation. ``florence.evaluation.registry`` lists them."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from pydantic import model_validator

from florence.config.base import Holds, Settings, location, setting, settings_group
from florence.config.video import Views

PROMPT_SETS = (
    "aircraft",
    "caltech101",
    "cars",
    "cifar10",
    "cifar100",
    "digits",
    "dtd",
    "flowers102",
    "food101",
    "imagenet",
    "kinetics400",
    "kinetics600",
    "pets",
    "sun397",
    "voc2007",
)
"""The class names and templates that come with the package, by name."""


class Baseline(StrEnum):
    """A classical classifier to print beside the model's accuracy."""

    NONE = "none"
    SVM = "svm-rbf"


class Metric(StrEnum):
    """The number by which a data set is compared in the literature."""

    ACCURACY = "accuracy"
    MEAN_PER_CLASS = "meanPerClass"
    MAP11 = "mAP11"


class RetrievalFormat(StrEnum):
    """Where image-text pairs for retrieval come from."""

    SHARDS = "shards"
    KARPATHY = "karpathy"
    FOLDER = "folder"


class RetrievalLabel(StrEnum):
    """Which images and captions belong together: those of one image, or those of one text."""

    IMAGE = "image"
    TEXT = "text"


class EvaluationSettings(Settings):
    """What every evaluation has: a name for its results, and data."""

    name: str = setting(
        description="name of the result", pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
    )
    data: str = location(description="URI of the data", holds=Holds.DATA, min_length=1)


class ZeroShot(EvaluationSettings):
    """Zero-shot classification of labelled images with prompt ensembling."""

    data: str = location(
        holds=Holds.DATA,
        description="URI of labelled shards (.cls members, or 'labels' in the json for mAP11), or "
        "of a folder with one sub-folder per class",
        min_length=1,
    )
    prompts: str = location(
        holds=Holds.PROMPTS,
        description=f"class names and templates: one of {', '.join(PROMPT_SETS)}, or the path or "
        "s3:// URI of a YAML file with lists 'classes' and 'templates'",
        names=PROMPT_SETS,
        min_length=1,
    )
    metric: Metric | None = setting(
        None,
        description="the number that counts: accuracy, meanPerClass or mAP11 (several classes an "
        "image). Default: the prompts' own",
    )
    baseline: Baseline = setting(
        Baseline.NONE, description="classifier trained on baselineData's pixels for comparison"
    )
    baseline_data: str | None = location(
        None,
        holds=Holds.DATA,
        description="URI of the labelled training images of the baseline",
    )

    @model_validator(mode="after")
    def _baseline_has_data(self) -> Self:
        if self.baseline is not Baseline.NONE and not self.baseline_data:
            raise ValueError("baselineData is required with a baseline")
        return self


class Retrieval(EvaluationSettings):
    """Image-to-text and text-to-image retrieval, R@1, R@5 and R@10 both ways."""

    data: str = location(
        holds=Holds.DATA,
        description="URI of the shards, of the Karpathy json, or of the folder of images with "
        ".txt files",
        min_length=1,
    )
    format: RetrievalFormat = setting(
        RetrievalFormat.SHARDS, description="shards, karpathy or folder"
    )
    images: str | None = location(
        None,
        description="folder of the images that a Karpathy json names. Default: the json's own "
        "folder",
    )
    split: str = setting("test", description="split of the Karpathy json")
    captions_per_image: int = setting(
        5, description="captions used of each image, the first ones", ge=1
    )
    label: RetrievalLabel = setting(
        RetrievalLabel.IMAGE,
        description="what is right: image: an image's own captions only, as the benchmarks have "
        "it; text: equal captions of other images too, for data whose captions repeat",
    )
    rerank: int = setting(
        0,
        description="vlp models: so many of the best candidates by the two towers are put in order "
        "anew by the matching head; 0 leaves the order of the towers",
        unit="candidates",
        ge=0,
    )


class Classification(EvaluationSettings):
    """Classification of labelled images by a model that has a head."""

    data: str = location(
        holds=Holds.DATA,
        description="URI of labelled shards (.cls members, or 'labels' in the json for mAP11), or "
        "of a folder with one sub-folder per class",
        min_length=1,
    )
    labels: str | None = location(
        None,
        holds=Holds.PROMPTS,
        description="class names in the order of the head's outputs: like zeroShot.prompts. "
        "Default: those in the model's card",
        names=PROMPT_SETS,
        min_length=1,
    )
    metric: Metric | None = setting(
        None,
        description="the number that counts: accuracy, meanPerClass or mAP11 (several classes an "
        "image). Default: that of labels, else accuracy",
    )


class QuestionAnswering(EvaluationSettings):
    """Questions about images, by the accuracy of the VQA challenge."""

    data: str = location(
        holds=Holds.DATA,
        description="URI of shards whose .json have 'questions'; those without answers are "
        "answered and not scored",
        min_length=1,
    )


class Matching(EvaluationSettings):
    """Whether image and text belong together: own captions, and as many of other images."""

    data: str = location(
        holds=Holds.DATA,
        description="URI of shards with captions, or of a Karpathy json, of which the test split "
        "is taken",
        min_length=1,
    )


class Captioning(EvaluationSettings):
    """Captions of images by CIDEr-D, BLEU-1 to 4 and ROUGE-L; with Java also METEOR and SPICE."""

    data: str = location(
        holds=Holds.DATA,
        description="URI of shards with captions, or of a Karpathy json, of which the test split "
        "is taken; all of an image's captions are references",
        min_length=1,
    )
    beams: int = setting(
        5,
        description="captions that are followed at once, of which the best is taken; 1: greedy",
        unit="beams",
        ge=1,
    )
    length_penalty: float = setting(
        1.0,
        description="a caption's score is its log-probability over its length to this power; "
        "larger prefers longer ones",
    )
    no_repeat: int = setting(
        0,
        description="sequences of so many words stand in a caption once; 0: as often as they like",
        unit="words",
        ge=0,
    )
    jars: str | None = setting(
        None,
        description="folder, where the stage runs, of meteor-1.5.jar or spice-1.0.jar with their "
        "data, to measure METEOR and SPICE; needs Java there. Default: neither is measured",
        min_length=1,
    )


class Pooling(StrEnum):
    """How a video becomes one embedding."""

    FRAMES = "frames"
    CLIP = "clip"


class ActionRecognition(EvaluationSettings):
    """Videos with one class each, by a model that was trained to name actions."""

    data: str = location(
        holds=Holds.DATA,
        description="URI of shards of clips with .cls members",
        min_length=1,
    )
    views: Views = settings_group(
        Views, description="how often a video is looked at; the softmax of all views is averaged"
    )


class VideoEmbedding(EvaluationSettings):
    """What evaluations share that compare videos with texts."""

    pooling: Pooling = setting(
        Pooling.FRAMES,
        description="frames: the mean of the embeddings of single frames; clip: one pass of the "
        "tower of clips, to which a model of images is inflated",
    )
    frames: int = setting(
        12,
        description="models of images: frames of a video, one a second, evenly spaced where it "
        "has more seconds",
        unit="frames",
        ge=1,
    )


class VideoRetrieval(VideoEmbedding):
    """Text-to-video and video-to-text retrieval: R@1, R@5, R@10, median and mean rank."""

    data: str = location(
        holds=Holds.DATA,
        description="URI of shards of clips with captions",
        min_length=1,
    )
    captions_per_clip: int = setting(
        1,
        description="captions used of each clip, the first ones",
        ge=1,
    )
    label: RetrievalLabel = setting(
        RetrievalLabel.IMAGE,
        description="what is right: image: a clip's own captions; text: equal ones of other "
        "clips too",
    )
    dual_softmax: bool = setting(
        False,
        description="weigh each score by a softmax over the other direction (DSL), which looks "
        "at all queries at once",
    )


class ZeroShotActions(VideoEmbedding):
    """Videos with one class each, named by comparing them with the classes' names in sentences."""

    data: str = location(
        holds=Holds.DATA,
        description="URI of shards of clips with .cls members",
        min_length=1,
    )
    prompts: str = location(
        holds=Holds.PROMPTS,
        description="class names and templates, as zeroShot.prompts",
        names=PROMPT_SETS,
        min_length=1,
    )
