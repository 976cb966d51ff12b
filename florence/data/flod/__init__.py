"""FLOD: detection data sets merged into one, whose names mean the same."""
