"""Whether a cluster can run jobs, and what to do where it cannot."""
