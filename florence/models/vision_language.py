"""An image tower, a text encoder and the fusion of their tokens: what V+L tasks share.

Shapes: B pairs, L text tokens, N image tokens, C channels of the fusion.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self, TypeVar, cast

import torch
from torch import Generator, Tensor, nn

from florence.config import ActivationCheckpointing, Architecture
from florence.errors import DataError
from florence.models.bert import initialise, mask_of
from florence.models.card import ModelCard
from florence.models.fusion import Fused, Fusion, FusionSizes
from florence.models.image import CoSwin
from florence.models.meta import on_meta
from florence.models.roberta import Roberta, RobertaSizes
from florence.models.stored import StoredModel, load_tower, take
from florence.models.text import TextTransformer
from florence.text.coding import ROBERTA, ClipCoder, RobertaCoder, TextCoder

FLORENCE = "florence"
"""The text tower of pretraining as a text encoder."""


@dataclass(frozen=True, kw_only=True)
class VisionLanguageShape:
    """What such a model is built of beside its towers; the ``head`` of its card.

    Attributes:
        roberta: sizes of the text encoder; ``None`` for the Florence text tower.
        coder: how texts become tokens.
        fusion: sizes of the fusion.
        text_length: most tokens of a text, start and end included.
    """

    roberta: RobertaSizes | None
    coder: TextCoder
    fusion: FusionSizes
    text_length: int

    def to_card(self) -> dict[str, Any]:
        """The values as JSON."""
        text: dict[str, Any] = {"encoder": FLORENCE}
        if self.roberta is not None:
            assert isinstance(self.coder, RobertaCoder)
            text = {
                "encoder": ROBERTA,
                "sizes": self.roberta.to_card(),
                "tokenizer": self.coder.packed(),
            }
        return {"text": text, "fusion": self.fusion.to_card(), "textLength": self.text_length}

    @classmethod
    def of(cls, card: ModelCard, uri: str) -> Self:
        """The shape that a card describes. Raises :class:`DataError` when it describes none."""
        values = card.head or {}
        text, fusion = values.get("text"), values.get("fusion")
        if not isinstance(text, dict) or not isinstance(fusion, dict):
            raise DataError(
                f"{uri}: a model of task '{card.task}' without a fusion of image and text: give "
                "one that a stage vlp, vqa or caption has trained"
            )
        roberta: RobertaSizes | None = None
        coder: TextCoder = ClipCoder()
        try:
            if text["encoder"] == ROBERTA:
                roberta = RobertaSizes.of(cast("dict[str, Any]", text["sizes"]), uri)
                coder = RobertaCoder.unpacked(text["tokenizer"], uri)
            sizes = FusionSizes(**cast("dict[str, int]", fusion))
            length = int(cast(int, values["textLength"]))
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{uri}: its card describes no fusion: {error}: copy it again"
            ) from None
        return cls(roberta=roberta, coder=coder, fusion=sizes, text_length=length)


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """How a model is trained, beside its sizes.

    Attributes:
        window: side of the attention windows.
        dropout: of text encoder and fusion; the Florence text tower has none.
        drop_path: highest probability of dropping an image block; the architecture's where None.
        checkpointing: which activations the backward pass recomputes.
        frozen_image, frozen_text: towers that are run without gradients and as in evaluation.
    """

    window: int
    dropout: float = 0.0
    drop_path: float | None = None
    checkpointing: ActivationCheckpointing = ActivationCheckpointing.NONE
    frozen_image: bool = False
    frozen_text: bool = False


class VisionLanguage(nn.Module):
    """Tokens of both towers and their fusion; heads are the tasks' own, under ``head``.

    Parameters are ``image.*``, ``text.*``, ``fusion.*`` and ``head.*``. The towers' projections
    take no part; they stay, so that the towers can be used otherwise again.

    Args:
        architecture: sizes of the towers.
        shape: of everything else.
        options: see :class:`BuildOptions`.
        head: what the task adds.
        causal: whether the fusion is a decoder.
    """

    def __init__(
        self,
        architecture: Architecture,
        shape: VisionLanguageShape,
        options: BuildOptions,
        head: nn.Module,
        *,
        causal: bool = False,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.shape = shape
        self.options = options
        self.causal = causal
        self.image = CoSwin(
            architecture.image,
            architecture.embed_dim,
            window=options.window,
            checkpointing=options.checkpointing,
            drop_path=options.drop_path,
        )
        self.text: Roberta | TextTransformer
        if shape.roberta is not None:
            self.text = Roberta(
                shape.roberta, dropout=options.dropout, checkpointing=options.checkpointing
            )
        else:
            self.text = TextTransformer(
                architecture.text, architecture.embed_dim, checkpointing=options.checkpointing
            )
        self.fusion = Fusion(
            shape.fusion,
            text_width=shape.roberta.width if shape.roberta else architecture.text.width,
            image_width=8 * architecture.image.width,
            causal=causal,
            dropout=options.dropout,
            checkpointing=options.checkpointing,
        )
        self.head = head
        self.train()

    def no_weight_decay(self) -> set[str]:
        """The text embedding, as in the paper; RoBERTa names its own."""
        return set() if isinstance(self.text, Roberta) else {"text.token_embedding.weight"}

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Initialise towers, fusion and head, drawing from ``generator``."""
        self.image.reset_parameters(generator)
        self.text.reset_parameters(generator)
        self.fusion.reset_parameters(generator)
        initialise(self.head, generator)

    def train(self, mode: bool = True) -> Self:
        """Training or evaluation mode; a frozen tower is always in the latter."""
        super().train(mode)
        if self.options.frozen_image:
            self.image.eval()
        if self.options.frozen_text:
            self.text.eval()
        return self

    def image_tokens(self, images: Tensor) -> Tensor:
        """The normalised tokens of the last stage: (B, 3, H, W) of any size to (B, N, 8 width)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.options.frozen_image):
            last = self.image.feature_maps(images)[-1]
            return cast(Tensor, self.image.norm(last.flatten(2).transpose(1, 2)))

    def text_tokens(self, input_ids: Tensor, mask: Tensor) -> Tensor:
        """All tokens of texts: (B, L) int64 and boolean (B, L) to (B, L, W)."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.options.frozen_text):
            if isinstance(self.text, Roberta):
                return cast(Tensor, self.text(input_ids, mask, causal=self.causal))
            return cast(Tensor, self.text(input_ids, pooled=False))

    def fuse(self, image_tokens: Tensor, input_ids: Tensor, lengths: Tensor) -> Fused:
        """Texts (B, L) int64 of ``lengths`` (B,), fused with image tokens (B, N, 8 width)."""
        mask = mask_of(lengths, input_ids.shape[1])
        fused: Fused = self.fusion(self.text_tokens(input_ids, mask), mask, image_tokens)
        return fused

    def pooled(self, fused: Fused, lengths: Tensor) -> Tensor:
        """What fused texts of ``lengths`` (B,) and images say as a whole: (B, 2 C).

        Of a text its first token with RoBERTa, as METER has it; with the Florence tower its last,
        which alone has seen all the others when it comes out of the tower.
        """
        first = isinstance(self.text, Roberta)
        return self.fusion.pooled(fused, torch.zeros_like(lengths) if first else lengths - 1)

    def looked_at(self, images: Tensor, input_ids: Tensor, lengths: Tensor) -> Tensor:
        """Where each word looks, see :meth:`Fusion.looked_at`: (B, L, N)."""
        mask = mask_of(lengths, input_ids.shape[1])
        tokens = self.text_tokens(input_ids, mask)
        return self.fusion.looked_at(tokens, mask, self.image_tokens(images))


ModelT = TypeVar("ModelT", bound=VisionLanguage)


def built(make: Callable[[], ModelT], *, seed: int, init: bool) -> ModelT:
    """A model on the CPU, initialised from a seed and nothing else.

    Args:
        make: builds it; called where modules get no values.
        init: whether parameters get values; not worth its time where others overwrite them.
    """
    with on_meta():
        model = make()
    model.to_empty(device="cpu")
    if init:
        model.reset_parameters(torch.Generator().manual_seed(seed))
    return model


def stored_model(make: Callable[[], ModelT], stored: StoredModel, device: torch.device) -> ModelT:
    """A stored model ready for evaluation. Raises :class:`DataError` where weights do not fit."""
    with on_meta():
        model = make()
    load_tower(model, stored, "")
    return model.to(device).eval()


def take_parts(model: VisionLanguage, source: StoredModel, *, text: bool = True) -> None:
    """Give a model what another has of it: towers, and the fusion where its sizes are the same.

    A text encoder of another sort than the model's is left out, and so is a head.

    Args:
        text: whether the text encoder is taken at all.

    Raises:
        DataError: a tower has other sizes.
    """
    load_tower(model.image, source, "image")
    head = source.card.head or {}
    described = head.get("text")
    sort = described.get("encoder") if isinstance(described, dict) else FLORENCE
    same = sort == (FLORENCE if model.shape.roberta is None else ROBERTA)
    if text and same and take(source.state, "text"):
        load_tower(model.text, source, "text")
    if head.get("fusion") == model.shape.fusion.to_card():
        load_tower(model.fusion, source, "fusion")
