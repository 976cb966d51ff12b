"""Texts: what makes two descriptions the same one, prompt templates, and CLIP's tokens."""
