"""Models as folders that transformers loads: ``from_pretrained`` of ``AutoModel`` for two towers,
of ``AutoModelForImageClassification`` for classifiers.

Format: https://huggingface.co/docs/transformers/custom_models.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

import yaml
from safetensors.torch import save
from torch import Tensor

from florence.models.card import ModelCard
from florence.models.classifier import CLASSIFICATION, HeadShape, classifier_of
from florence.models.exporting.encoders import encoders_of
from florence.models.stored import CARD, WEIGHTS, StoredModel

CODE = "modeling_florence.py"
README = "README.md"
PREPROCESSOR = "preprocessor_config.json"


def hugging_face_files(stored: StoredModel) -> dict[str, bytes]:
    """The files of the folder by name: weights, configuration, code, how images are made into
    inputs, and a model card.

    Raises:
        ConfigurationError: the model is neither two towers nor a classifier.
        DataError: its weights do not fit its card.
    """
    card = stored.card
    weights = {f"model.{name}": value.contiguous() for name, value in _state(stored).items()}
    parameters = sum(value.numel() for value in weights.values())
    code = resources.files("florence.models.exporting").joinpath(CODE).read_bytes()
    return {
        WEIGHTS: save(weights, metadata={"format": "pt"}),
        CARD: _configuration(card),
        CODE: code,
        PREPROCESSOR: _preprocessor(card),
        README: model_card(card, parameters).encode(),
    }


@dataclass(frozen=True)
class _Form:
    """How transformers knows a model of some task.

    Attributes:
        auto: its class that loads the model.
        model: our class behind that.
        pipeline: what the page calls its use.
        title: of the page.
        usage: Python under the line that loads it.
        inputs: what the page says of its arguments.
    """

    auto: str
    model: str
    pipeline: str
    title: str
    usage: str
    inputs: str


_TWO_TOWERS = _Form(
    "AutoModel",
    "FlorenceTwoTower",
    "zero-shot-image-classification",
    "Two towers for images and texts",
    "out = model(pixel_values=images, input_ids=tokens)   "
    "# image_embeds, text_embeds, logits_per_image",
    "; `tokens` are\n(B, L) int64, padded with 0 after the end token",
)
_CLASSIFIER = _Form(
    "AutoModelForImageClassification",
    "FlorenceImageClassifier",
    "image-classification",
    "An image classifier",
    "logits = model(pixel_values=images).logits   # names: model.config.id2label",
    "",
)


def _form(card: ModelCard) -> _Form:
    return _CLASSIFIER if card.task == CLASSIFICATION else _TWO_TOWERS


def _state(stored: StoredModel) -> dict[str, Tensor]:
    if stored.card.task == CLASSIFICATION:
        return classifier_of(stored).state_dict()
    return encoders_of(
        stored,
        "--format hf is for classifiers and",
        "outputs no class of transformers describes",
    ).state_dict()


def _configuration(card: ModelCard) -> bytes:
    module, form = CODE.removesuffix(".py"), _form(card)
    document: dict[str, Any] = {
        "model_type": "florence",
        "architectures": [form.model],
        "auto_map": {
            "AutoConfig": f"{module}.FlorenceConfig",
            form.auto: f"{module}.{form.model}",
        },
        "dtype": "float32",
        "card": card.wire(),
    }
    if card.task == CLASSIFICATION:
        kind = "single" if HeadShape.of(card, CARD).exclusive else "multi"
        document["problem_type"] = f"{kind}_label_classification"
    if card.labels:
        document["id2label"] = dict(enumerate(card.labels))
        document["label2id"] = {label: number for number, label in enumerate(card.labels)}
    return (json.dumps(document, indent=2) + "\n").encode()


def _preprocessor(card: ModelCard) -> bytes:
    """Short side to R (bicubic), the central square, mean and deviation: CLIP's class does that."""
    side = card.resolution
    document = {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(card.mean),
        "image_std": list(card.std),
    }
    return (json.dumps(document, indent=2) + "\n").encode()


def model_card(card: ModelCard, parameters: int) -> str:
    """The page of a model: what it is, how its inputs are made, and how it is used.

    Args:
        card: of the model.
        parameters: how many it has.
    """
    form = _form(card)
    front = yaml.safe_dump(
        {
            "library_name": "transformers",
            "pipeline_tag": form.pipeline,
            "tags": ["florence", card.task],
        },
        sort_keys=False,
    )
    facts = {
        "parameters": f"{parameters:,}",
        **_answer(card),
        "images": f"RGB, {card.resolution} x {card.resolution}, in [0, 1]",
        "mean": ", ".join(map(str, card.mean)),
        "standard deviation": ", ".join(map(str, card.std)),
        **{f"trained: {name}": str(value) for name, value in card.trained.items()},
    }
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    return f"""---
{front}---

# {form.title}

Trained with the package `florence`, which has to be installed to load it.

| | |
|---|---|
{rows}

```python
from transformers import {form.auto}

model = {form.auto}.from_pretrained("FOLDER", trust_remote_code=True)
{form.usage}
```

`images` are (B, 3, {card.resolution}, {card.resolution}) after mean and deviation{form.inputs}.
"""


def _answer(card: ModelCard) -> dict[str, str]:
    """What the page says of a model's outputs, and of what it reads beside images."""
    if card.task == CLASSIFICATION:
        return {"classes": ", ".join(card.labels) or str((card.head or {}).get("classes"))}
    return {
        "embedding": f"{card.architecture.embed_dim} channels of unit length",
        "tokenizer": card.tokenizer,
    }
