"""What stages do: one folder a kind, registered in :mod:`florence.kinds`."""
