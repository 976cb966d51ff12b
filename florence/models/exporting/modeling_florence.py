"""Models of florence for transformers: goes beside the weights of an exported model.

It is what ``AutoModel.from_pretrained(folder, trust_remote_code=True)`` runs, and the same of
``AutoModelForImageClassification``; the models are those of the package ``florence``, which has to
be installed.
"""

from __future__ import annotations

from typing import Any

from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils import ModelOutput

from florence.models.card import ModelCard
from florence.models.classifier import ClassifierHead, HeadShape, ImageClassifier
from florence.models.image import CoSwin
from florence.models.two_tower import TwoTower


class FlorenceConfig(PretrainedConfig):  # type: ignore[misc]  # transformers is not type-checked
    """The card of a model of florence.

    Args:
        card: as in ``config.json`` of the model that was exported.
    """

    model_type = "florence"

    def __init__(self, card: dict[str, Any] | None = None, **others: Any) -> None:
        self.card = card or {}
        super().__init__(**others)


class FlorenceTwoTower(PreTrainedModel):  # type: ignore[misc]
    """An image tower and a text tower with a shared embedding of D channels."""

    config_class = FlorenceConfig
    main_input_name = "pixel_values"

    def __init__(self, config: FlorenceConfig) -> None:
        super().__init__(config)
        card = ModelCard.model_validate(config.card)
        self.model = TwoTower(card.architecture, window=card.window)
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        """Weights come from the file, all of them."""

    def get_image_features(self, pixel_values: Any) -> Any:
        """(B, 3, H, W), normalised as the card says, to (B, D) of unit length."""
        return self.model.encode_image(pixel_values)

    def get_text_features(self, input_ids: Any) -> Any:
        """(B, L) int64, padded with 0 after the end token, to (B, D) of unit length."""
        return self.model.encode_text(input_ids)

    def forward(self, pixel_values: Any = None, input_ids: Any = None, **_: Any) -> ModelOutput:
        """Embeddings of what is given; with both, logits (images, texts) too."""
        found: dict[str, Any] = {}
        if pixel_values is not None:
            found["image_embeds"] = self.get_image_features(pixel_values)
        if input_ids is not None:
            found["text_embeds"] = self.get_text_features(input_ids)
        if len(found) == 2:
            similarity = found["image_embeds"] @ found["text_embeds"].T
            found["logits_per_image"] = self.model.logit_scale.exp() * similarity
        return ModelOutput(found)


class FlorenceImageClassifier(PreTrainedModel):  # type: ignore[misc]
    """An image tower with a classifier of C classes."""

    config_class = FlorenceConfig
    main_input_name = "pixel_values"

    def __init__(self, config: FlorenceConfig) -> None:
        super().__init__(config)
        card = ModelCard.model_validate(config.card)
        image = card.architecture.image
        self.model = ImageClassifier(
            CoSwin(image, card.architecture.embed_dim, window=card.window),
            ClassifierHead(8 * image.width, HeadShape.of(card, "config.json")),
        )
        self.post_init()

    def _init_weights(self, module: Any) -> None:
        """Weights come from the file, all of them."""

    def forward(self, pixel_values: Any, **_: Any) -> ImageClassifierOutput:
        """(B, 3, H, W), normalised as the card says, to logits (B, C)."""
        return ImageClassifierOutput(logits=self.model(pixel_values))
