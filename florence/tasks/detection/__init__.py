"""Finding objects: boxes with classes, or boxes of anything that texts then name."""
