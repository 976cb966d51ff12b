"""The models of MLflow's registry: written when a stage ends, promoted by gates, found by name.

What is registered is one version per final model, called ``<experiment>-<task>``; the aliases
``candidate`` and ``champion`` say which version is the newest and which one is in use.
"""
