"""FlorenceJobs as steps of Kubeflow pipelines, and pipelines of them.

``components.py`` and ``definitions.py`` need the extra ``pipelines``; the other modules are what
the components call, and are tested without it.
"""
