"""Whole jobs as functions: the paper's training, and the same in small on scanned digits.

A recipe returns a FlorenceJob; whoever wants another run calls it and changes fields. A family of
recipes has a module of its own, and what is written out under ``jobs/samples`` an entry in
``registry.py``; ``make check`` says when a sample is stale.
"""
