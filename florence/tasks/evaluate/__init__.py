"""Measuring a model on held-out data."""

from florence.config import Evaluate
from florence.tasks.kind import Kind

KIND = Kind(
    name="evaluate",
    help="measure a model on held-out data: classification, retrieval, matching, answers, captions",
    settings=Evaluate,
    run="florence.stages.evaluate:evaluate",
    starts_from=lambda settings: settings.model_tasks,
    needs_model=True,
)
