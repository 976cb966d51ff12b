"""Train vision foundation models: two towers, one contrastive loss, any number of GPUs.

    import florence

    model = florence.load("~/.florence/artifacts/default/digits/clean/model")
    model.predict("seven.png", labels=["one", "seven"])

Importing this package costs nothing: torch is imported by the submodules that compute with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from florence.loading import LoadedModel

__version__ = "0.1.0"


def load(uri: Any, **options: Any) -> LoadedModel:
    """A trained model that predicts; see :func:`florence.loading.load`."""
    from florence.loading import load as load_model

    return load_model(uri, **options)
