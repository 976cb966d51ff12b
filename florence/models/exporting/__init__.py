"""Models of ours as other programs read them."""
