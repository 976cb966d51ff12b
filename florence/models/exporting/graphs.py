"""Models as graphs of any batch size: ``torch.export`` programs, and ONNX made of them."""

from __future__ import annotations

import io
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from florence.config.model import Attention
from florence.errors import FlorenceError
from florence.models.card import card_bytes
from florence.models.classifier import CLASSIFICATION, ImageClassifier, classifier_of
from florence.models.exporting.encoders import encoders_of
from florence.models.stored import CARD, StoredModel
from florence.models.two_tower import TwoTower

ONNX_BYTES = 1_800_000_000
"""Weights of more bytes go into a file beside the graph: protobuf ends at 2 GiB."""

TOLERANCE = 1e-4
"""Largest difference that counts as rounding, of outputs whose largest is 1."""


@dataclass(frozen=True)
class Graph:
    """One function of a model, ready to be traced.

    Attributes:
        module: what it computes, in evaluation mode on the CPU.
        example: an input of batch size 2, of which only that size may change.
        input: name of the input.
        output: name of the output.
    """

    module: nn.Module
    example: Tensor
    input: str
    output: str


class _Images(nn.Module):
    def __init__(self, model: TwoTower) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.model.encode_image(pixel_values)


class _Texts(nn.Module):
    def __init__(self, model: TwoTower) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.model.encode_text(input_ids)


class _Logits(nn.Module):
    def __init__(self, model: ImageClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        logits: Tensor = self.model(pixel_values)
        return logits


def graphs_of(stored: StoredModel) -> dict[str, Graph]:
    """The encoders of a two-tower model, ``image`` and ``text``, or a ``classifier``.

    ``image``: pixel_values (B, 3, R, R) float32, normalised, to (B, D) of unit length. ``text``:
    input_ids (B, L) int64 with L the tower's context, padded with 0, to (B, D). ``classifier``:
    pixel_values to logits (B, C).

    Raises:
        ConfigurationError: the model is of another task.
        DataError: its weights do not fit its card.
    """
    card = stored.card
    # The fused attention asks how large the batch is; a graph of any batch cannot.
    attention = Attention.MATH
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(2, 3, card.resolution, card.resolution, generator=generator)
    if card.task == CLASSIFICATION:
        classifier = _Logits(classifier_of(stored, attention=attention)).eval()
        return {"classifier": Graph(classifier, images, "pixel_values", "logits")}
    model = encoders_of(
        stored,
        "graphs are written of classifiers and",
        "answers are not made by its network alone",
        attention=attention,
    )
    context = card.architecture.text.context
    texts = torch.randint(1, card.architecture.text.vocabulary, (2, context), generator=generator)
    return {
        "image": Graph(_Images(model).eval(), images, "pixel_values", "image_embeds"),
        "text": Graph(_Texts(model).eval(), texts, "input_ids", "text_embeds"),
    }


def traced(graph: Graph) -> ExportedProgram:
    """The function as a program of any batch size from 1 on."""
    shapes = {graph.input: {0: Dim("batch")}}
    return torch.export.export(graph.module, (graph.example,), dynamic_shapes=shapes)


def torch_export_files(stored: StoredModel) -> dict[str, bytes]:
    """``image.pt2`` and ``text.pt2``, or ``classifier.pt2``, for ``torch.export.load``, and the
    card. Raises as :func:`graphs_of`."""
    files = {}
    for name, graph in graphs_of(stored).items():
        buffer = io.BytesIO()
        torch.export.save(traced(graph), buffer)
        files[f"{name}.pt2"] = buffer.getvalue()
    return {**files, CARD: card_bytes(stored.card)}


def onnx_files(stored: StoredModel, *, largest: int = ONNX_BYTES) -> dict[str, bytes]:
    """The graphs as ``NAME.onnx``, with ``NAME.onnx.data`` where they are large, and the card.

    Args:
        stored: a model with two towers, or a classifier.
        largest: bytes of weights that stay in the graph's own file.

    Raises:
        ConfigurationError: as above.
        FlorenceError: onnxruntime, where it is installed, computes something else.
        ModuleNotFoundError: the extra ``export`` is not installed.
    """
    import onnxscript  # noqa: F401  # what torch.onnx needs, told by its own name

    files: dict[str, bytes] = {}
    for name, graph in graphs_of(stored).items():
        size = sum(value.numel() * value.element_size() for value in graph.module.parameters())
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, f"{name}.onnx")
            program = torch.onnx.export(
                traced(graph),
                input_names=[graph.input],
                output_names=[graph.output],
                dynamo=True,
                verbose=False,
            )
            assert program is not None
            program.save(path, external_data=size > largest)
            check_onnx(path, graph)
            files |= {each.name: each.read_bytes() for each in sorted(Path(folder).iterdir())}
    return {**files, CARD: card_bytes(stored.card)}


def check_onnx(path: Path, graph: Graph) -> None:
    """Compare a graph with the model on batches of another size, where onnxruntime is installed.

    Raises:
        FlorenceError: they differ by more than rounding.
    """
    try:
        import onnxruntime
    except ModuleNotFoundError:
        return
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch in (graph.example[:1], torch.cat([graph.example, graph.example[:1]])):
        (found,) = session.run([graph.output], {graph.input: batch.numpy()})
        with torch.no_grad():
            expected = graph.module(batch)
        difference = float((expected - torch.from_numpy(found)).abs().max())
        if not difference <= TOLERANCE * max(1.0, float(expected.abs().max())):
            raise FlorenceError(
                f"{path.name}: onnxruntime differs from the model by {difference:.2g}: this "
                "version of torch writes another graph: try the one of constraints.txt"
            )
