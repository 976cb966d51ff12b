"""Other projects' checkpoints as models of ours: timm, open_clip and CLIP, UniCL."""
