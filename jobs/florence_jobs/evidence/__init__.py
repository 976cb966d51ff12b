"""What the ranks of an attempt did that did not stop as asked, kept beside its logs.

``rank`` answers in every rank, ``gathering`` asks them all, ``keeper`` decides when and keeps what
came; ``stacks`` and ``report`` are pure and read what was kept.
"""
