"""A stage's results in MLflow, delivered by a thread that training never waits for."""

from florence_jobs.tracking.recorder import (
    ClosableRecorder,
    NullTracker,
    Tracker,
    make_recorder,
)

__all__ = ["ClosableRecorder", "NullTracker", "Tracker", "make_recorder"]
