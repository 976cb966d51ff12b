"""A stage's results in MLflow, delivered by a thread that training never waits for."""

from florence_jobs.tracking.making import make_recorder
from florence_jobs.tracking.recorder import Tracker
from florence_jobs.tracking.several import ClosableRecorder, SeveralRecorders

__all__ = ["ClosableRecorder", "SeveralRecorders", "Tracker", "make_recorder"]
