"""Clips: decoding, which frames of one are looked at, and what readers make of them."""
