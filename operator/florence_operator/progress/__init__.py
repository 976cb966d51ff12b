"""The progress that pods report: who may, and the newest of each attempt."""
