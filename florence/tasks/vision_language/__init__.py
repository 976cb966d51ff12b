"""What kinds share that fuse image and text."""
