"""The evaluation ``zeroShotActions``: videos, named by comparing them with texts."""

from __future__ import annotations

from florence.config.evaluations import ZeroShotActions
from florence.evaluation.action_recognition import action_results, labelled_clips
from florence.evaluation.classify import ensemble
from florence.evaluation.clips import open_clips
from florence.evaluation.context import EvaluationContext, Prepared, Results
from florence.evaluation.prompts import load_prompts
from florence.evaluation.video_embeddings import check_pooling, embeddings_of_clips, text_encoder
from florence.text.templates import render


def prepare(context: EvaluationContext, settings: ZeroShotActions) -> Prepared:
    """Open the clips and match their classes to the prompts'.

    Raises:
        ConfigurationError: the model has no text tower, or prompts cannot be read or do not fit.
        DataError: data is missing, or a clip has no class; names the URI.
    """
    where = f"zeroShotActions '{settings.name}'"
    model = text_encoder(context, where)
    check_pooling(context, settings, where)
    prompts = load_prompts(settings.prompts, context.s3)
    clips = open_clips(context, settings.data)
    data = labelled_clips(clips, prompts, settings.data, where)
    groups = [[render(t, name) for t in prompts.templates] for name in prompts.classes]

    def run() -> Results:
        classes = context.over_groups(groups, model, ensemble)
        videos = embeddings_of_clips(context, clips, model, settings)
        if not context.world.is_first:
            return Results()
        scores = videos @ classes.T
        return action_results(settings.name, clips, data, scores, prompts=settings.prompts)

    return Prepared(len(clips) + len(prompts.classes) * len(prompts.templates), run)
