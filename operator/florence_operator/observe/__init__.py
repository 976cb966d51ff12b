"""What the operator knows: caches, and one job's objects read from them."""
