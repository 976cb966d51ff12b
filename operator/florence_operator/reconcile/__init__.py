"""Decide what happens next to a job, with pure functions, and do it."""
