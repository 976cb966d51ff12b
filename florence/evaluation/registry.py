"""The kinds of evaluation. A new one is a line here; imports nothing, so that anyone may read it.

From a line follow the field of the ``evaluate`` stage, the CRD, and what a training loop can run
every n steps.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """One kind of evaluation."""

    field: str
    """Its field in the settings, in snake_case; holds a list of ``settings``."""
    help: str
    settings: str
    """``module:class`` of :class:`florence.config.evaluations.EvaluationSettings`. A path and not
    the class: ``florence.config`` reads this registry, so this must not import it."""
    tasks: tuple[str, ...]
    """Tasks of the models that it measures, as their cards name them."""
    prepare: str
    """``module:function`` of type :data:`florence.evaluation.context.Prepare`; imports torch."""


EVALUATIONS = (
    Evaluation(
        field="zero_shot",
        help="zero-shot classifications",
        settings="florence.config.evaluations:ZeroShot",
        tasks=("contrastive",),
        prepare="florence.evaluation.zero_shot:prepare",
    ),
    Evaluation(
        field="retrieval",
        help="retrievals",
        settings="florence.config.evaluations:Retrieval",
        tasks=("contrastive", "vlp"),
        prepare="florence.evaluation.image_text_retrieval:prepare",
    ),
    Evaluation(
        field="classification",
        help="classifications by a model with a head",
        settings="florence.config.evaluations:Classification",
        tasks=("classification",),
        prepare="florence.evaluation.classification:prepare",
    ),
    Evaluation(
        field="detection",
        help="boxes of a detector against those of people",
        settings="florence.config.detection:Detection",
        tasks=("detection", "zeroShotDetection"),
        prepare="florence.tasks.detection.evaluate:prepare",
    ),
    Evaluation(
        field="matching",
        help="matchings of images and texts",
        settings="florence.config.evaluations:Matching",
        tasks=("vlp",),
        prepare="florence.tasks.vlp.evaluate:prepare",
    ),
    Evaluation(
        field="captioning",
        help="captions of images",
        settings="florence.config.evaluations:Captioning",
        tasks=("caption",),
        prepare="florence.tasks.caption.evaluate:prepare",
    ),
    Evaluation(
        field="question_answering",
        help="answers to questions about images",
        settings="florence.config.evaluations:QuestionAnswering",
        tasks=("vqa",),
        prepare="florence.tasks.vqa.evaluate:prepare",
    ),
    Evaluation(
        field="action_recognition",
        help="action recognitions by a model that was trained for it",
        settings="florence.config.evaluations:ActionRecognition",
        tasks=("actionRecognition",),
        prepare="florence.evaluation.action_recognition:prepare",
    ),
    Evaluation(
        field="video_retrieval",
        help="retrievals of videos by texts and of texts by videos",
        settings="florence.config.evaluations:VideoRetrieval",
        tasks=("contrastive", "videoText"),
        prepare="florence.evaluation.video_text_retrieval:prepare",
    ),
    Evaluation(
        field="zero_shot_actions",
        help="zero-shot action recognitions",
        settings="florence.config.evaluations:ZeroShotActions",
        tasks=("contrastive", "videoText"),
        prepare="florence.evaluation.zero_shot_actions:prepare",
    ),
)
