"""A two-tower model as a folder that transformers loads: ``AutoModel.from_pretrained``.

Format: https://huggingface.co/docs/transformers/custom_models.
"""

from __future__ import annotations

import json
from importlib import resources

import yaml
from safetensors.torch import save

from florence.models.card import ModelCard
from florence.models.exporting.encoders import encoders_of
from florence.models.stored import CARD, WEIGHTS, StoredModel

CODE = "modeling_florence.py"
README = "README.md"


def hugging_face_files(stored: StoredModel) -> dict[str, bytes]:
    """The files of the folder by name: weights, configuration, code and a model card.

    Raises:
        ConfigurationError: the model has not two towers.
        DataError: its weights do not fit its card.
    """
    card = stored.card
    model = encoders_of(stored, "--format hf is for", "outputs no class of transformers describes")
    state = model.state_dict()
    weights = {f"model.{name}": value.contiguous() for name, value in state.items()}
    parameters = sum(value.numel() for value in weights.values())
    code = resources.files("florence.models.exporting").joinpath(CODE).read_bytes()
    return {
        WEIGHTS: save(weights, metadata={"format": "pt"}),
        CARD: _configuration(card),
        CODE: code,
        README: model_card(card, parameters).encode(),
    }


def _configuration(card: ModelCard) -> bytes:
    module = CODE.removesuffix(".py")
    document = {
        "model_type": "florence-two-tower",
        "architectures": ["FlorenceTwoTower"],
        "auto_map": {
            "AutoConfig": f"{module}.FlorenceConfig",
            "AutoModel": f"{module}.FlorenceTwoTower",
        },
        "dtype": "float32",
        "card": card.wire(),
    }
    return (json.dumps(document, indent=2) + "\n").encode()


def model_card(card: ModelCard, parameters: int) -> str:
    """The page of a model: what it is, how its inputs are made, and how it is used.

    Args:
        card: of the model.
        parameters: how many it has.
    """
    front = yaml.safe_dump(
        {
            "library_name": "transformers",
            "pipeline_tag": "zero-shot-image-classification",
            "tags": ["florence", "contrastive"],
        },
        sort_keys=False,
    )
    facts = {
        "parameters": f"{parameters:,}",
        "embedding": f"{card.architecture.embed_dim} channels of unit length",
        "images": f"RGB, {card.resolution} x {card.resolution}, in [0, 1]",
        "mean": ", ".join(map(str, card.mean)),
        "standard deviation": ", ".join(map(str, card.std)),
        "tokenizer": card.tokenizer,
        **{f"trained: {name}": str(value) for name, value in card.trained.items()},
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"""---
{front}---

# Two towers for images and texts

Trained with the package `florence`, which has to be installed to load it.

| | |
|---|---|
{rows}

```python
from transformers import AutoModel

model = AutoModel.from_pretrained("FOLDER", trust_remote_code=True)
out = model(pixel_values=images, input_ids=tokens)   # image_embeds, text_embeds, logits_per_image
```

`images` are (B, 3, {card.resolution}, {card.resolution}) after mean and deviation; `tokens` are
(B, L) int64, padded with 0 after the end token.
"""
