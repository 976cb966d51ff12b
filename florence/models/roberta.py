"""RoBERTa, a text encoder (arXiv 1907.11692): a module of our own that reads its published files.

Shapes: B texts of L tokens, C channels.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Generator, Tensor, nn

from florence.config import ActivationCheckpointing
from florence.config.storage import S3Settings
from florence.errors import DataError
from florence.models.bert import BertLayer, KeyValues, LayerSizes, causal_mask, initialise
from florence.models.layers import recompute
from florence.storage import MissingKeyError, open_storage

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
_PREFIX = "roberta."
_NAMES = {
    "vocabulary": "vocab_size",
    "width": "hidden_size",
    "layers": "num_hidden_layers",
    "heads": "num_attention_heads",
    "hidden": "intermediate_size",
    "positions": "max_position_embeddings",
    "types": "type_vocab_size",
    "padding": "pad_token_id",
    "norm_eps": "layer_norm_eps",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class RobertaSizes:
    """Sizes of a RoBERTa; the defaults are those of ``roberta-base``.

    ``positions`` are the rows of the table, of which those up to ``padding`` are no positions.
    """

    vocabulary: int = 50_265
    width: int = 768
    layers: int = 12
    heads: int = 12
    hidden: int = 3_072
    positions: int = 514
    types: int = 1
    padding: int = 1
    norm_eps: float = 1e-5

    @property
    def context(self) -> int:
        """Most tokens of a text."""
        return self.positions - self.padding - 1

    def to_card(self) -> dict[str, Any]:
        """The values as JSON."""
        return asdict(self)

    @classmethod
    def of(cls, values: dict[str, Any], where: str) -> RobertaSizes:
        """From a card's values. Raises :class:`DataError` for others; names ``where``."""
        known = {field.name for field in fields(cls)}
        if values.keys() != known:
            wrong = ", ".join(sorted(values.keys() ^ known))
            raise DataError(f"{where}: sizes of RoBERTa: {wrong} unknown or missing")
        return cls(**values)


class _Embeddings(nn.Module):
    """Words, positions and types, summed and normalised."""

    def __init__(self, sizes: RobertaSizes, dropout: float) -> None:
        super().__init__()
        self.padding = sizes.padding
        self.word_embeddings = nn.Embedding(sizes.vocabulary, sizes.width)
        self.position_embeddings = nn.Embedding(sizes.positions, sizes.width)
        self.token_type_embeddings = nn.Embedding(sizes.types, sizes.width)
        self.LayerNorm = nn.LayerNorm(sizes.width, eps=sizes.norm_eps)
        self.dropout = nn.Dropout(dropout)

    def forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        x = self.word_embeddings(input_ids) + self.position_embeddings(positions)
        return cast(
            Tensor,
            self.dropout(
                self.LayerNorm(x + self.token_type_embeddings(torch.zeros_like(input_ids)))
            ),
        )


class _Encoder(nn.Module):
    """The layers, under the name that RoBERTa's files have: ``encoder.layer``."""

    def __init__(self, sizes: RobertaSizes, dropout: float) -> None:
        super().__init__()
        layer = LayerSizes(
            width=sizes.width,
            heads=sizes.heads,
            hidden=sizes.hidden,
            dropout=dropout,
            norm_eps=sizes.norm_eps,
        )
        self.layer = nn.ModuleList(BertLayer(layer) for _ in range(sizes.layers))


class Roberta(nn.Module):
    """RoBERTa without a pooler and without heads; parameters have the published files' names.

    Args:
        sizes: of the encoder.
        dropout: probability in training.
        checkpointing: with anything but ``none`` the backward pass recomputes whole layers.
    """

    def __init__(
        self,
        sizes: RobertaSizes,
        *,
        dropout: float = 0.1,
        checkpointing: ActivationCheckpointing = ActivationCheckpointing.NONE,
    ) -> None:
        super().__init__()
        self.sizes = sizes
        self.checkpointing = checkpointing
        self.embeddings = _Embeddings(sizes, dropout)
        self.encoder = _Encoder(sizes, dropout)

    def no_weight_decay(self) -> set[str]:
        """The embeddings: the paper trains a text's without decay beside images."""
        kinds = ("word", "position", "token_type")
        return {f"embeddings.{kind}_embeddings.weight" for kind in kinds}

    def reset_parameters(self, generator: Generator | None = None) -> None:
        """Initialise as BERT."""
        initialise(self, generator)

    def forward(self, input_ids: Tensor, mask: Tensor, *, causal: bool = False) -> Tensor:
        """All tokens of texts: (B, L) int64 to (B, L, C).

        Args:
            input_ids: L is at most ``sizes.context``.
            mask: boolean (B, L); False for padding, which stands behind a text.
            causal: a token sees itself and those before it only.
        """
        positions = mask.cumsum(dim=1) * mask + self.sizes.padding
        x = self.embeddings(input_ids, positions)
        seen = mask[:, None, None, :]
        if causal:
            seen = seen & causal_mask(input_ids.shape[1], input_ids.device)
        recomputed = self.checkpointing is not ActivationCheckpointing.NONE and self.training
        for layer in self.encoder.layer:
            x = recompute(layer, x, seen) if recomputed else layer(x, seen)
        return cast(Tensor, x)

    def step(
        self, input_ids: Tensor, position: int, past: list[KeyValues | None]
    ) -> tuple[Tensor, list[KeyValues | None]]:
        """One more token of every text, causally: (B,) int64 to (B, 1, C).

        Args:
            input_ids: the tokens at ``position``, which counts from 0.
            past: keys and values by layer, as the step before returned them; ``None`` each at 0.
        """
        places = torch.full_like(input_ids[:, None], position + 1 + self.sizes.padding)
        x = self.embeddings(input_ids[:, None], places)
        seen: list[KeyValues | None] = []
        for layer, before in zip(self.encoder.layer, past, strict=True):
            x, after = cast(BertLayer, layer).step(x, before)
            seen.append(after)
        return x, seen


@dataclass(frozen=True)
class RobertaFiles:
    """What a folder of RoBERTa holds: its sizes, and its tensors under our module's names."""

    sizes: RobertaSizes
    state: dict[str, Tensor]


def read_roberta(uri: str, s3: S3Settings | None = None) -> RobertaFiles:
    """The encoder in a folder with ``config.json`` and ``model.safetensors``, here or in S3.

    Heads and poolers in the file are left out.

    Raises:
        DataError: a file is missing, broken, a pickle, or no RoBERTa's; names it and the tensor.
    """
    storage = open_storage(uri.rstrip("/") or uri, s3)
    sizes = read_roberta_sizes(uri, s3)
    where = storage.url(WEIGHTS)
    try:
        state = load(storage.read(WEIGHTS))
    except MissingKeyError:
        raise DataError(
            f"{where} does not exist: give the folder of a RoBERTa with its safetensors; a pickle "
            "(pytorch_model.bin) is not read: load it yourself and save it as safetensors"
        ) from None
    except SafetensorError as error:
        raise DataError(f"{where}: not a whole safetensors file ({error}): copy it again") from None
    if any(name.startswith(_PREFIX) for name in state):
        state = {
            name[len(_PREFIX) :]: value for name, value in state.items() if name.startswith(_PREFIX)
        }
    with torch.device("meta"):
        expected = Roberta(sizes).state_dict()
    return RobertaFiles(
        sizes, {name: _fitting(state, name, value, where) for name, value in expected.items()}
    )


def read_roberta_sizes(uri: str, s3: S3Settings | None = None) -> RobertaSizes:
    """The sizes in a folder's ``config.json``. Raises :class:`DataError`; names the field."""
    storage = open_storage(uri.rstrip("/") or uri, s3)
    where = storage.url(CONFIG)
    try:
        document = json.loads(storage.read(CONFIG))
    except MissingKeyError:
        raise DataError(f"{where} does not exist: give the folder of a RoBERTa") from None
    except ValueError as error:
        raise DataError(f"{where} is not JSON: {error}: copy it again") from error
    if not isinstance(document, dict) or document.get("model_type") != "roberta":
        raise DataError(f"{where}: model_type is not 'roberta': give the folder of a RoBERTa")
    if document.get("hidden_act", "gelu") != "gelu":
        raise DataError(f"{where}: hidden_act is '{document['hidden_act']}': only gelu is built")
    values = {}
    for ours, theirs in _NAMES.items():
        value = document.get(theirs)
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise DataError(f"{where}: {theirs} is missing or no number: copy the file again")
        values[ours] = float(value) if ours == "norm_eps" else int(value)
    sizes = RobertaSizes(**values)  # type: ignore[arg-type]
    if sizes.width % sizes.heads:
        raise DataError(f"{where}: {sizes.heads} heads do not divide {sizes.width} channels")
    return sizes


def _fitting(state: dict[str, Tensor], name: str, expected: Tensor, where: str) -> Tensor:
    if name not in state:
        raise DataError(f"{where}: '{name}' is missing: give a whole RoBERTa")
    found = state[name]
    if found.shape != expected.shape:
        raise DataError(
            f"{where}: '{name}' is {tuple(found.shape)} instead of {tuple(expected.shape)}, as "
            f"{CONFIG} has it: use the two files of one model"
        )
    return found.float()
