"""Train vision foundation models: two towers, one contrastive loss, any number of GPUs.

Importing this package costs nothing: torch is imported by the submodules that compute with it.
"""

__version__ = "0.1.0"
