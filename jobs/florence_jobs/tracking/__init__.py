"""A stage's results in MLflow, delivered by a thread that training never waits for."""
