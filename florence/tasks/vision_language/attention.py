"""Where the words of a text look in an image, as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from florence.data.transforms import eval_pixels, normalise
from florence.models.card import ModelCard
from florence.models.vision_language import VisionLanguage
from florence.tasks.vision_language.texts import coded_texts

COLUMNS = 5
MOST_WORDS = 20


@torch.no_grad()
def attention_picture(
    model: VisionLanguage, card: ModelCard, image: Image.Image, text: str, *, title: str
) -> bytes:
    """The image once for each token of a text, with what the token attends to in the last layer.

    Args:
        model: in evaluation mode.
        card: the model's.
        image: in RGB.
        text: at most its first twenty tokens are drawn.
        title: what stands above.

    Returns:
        A PNG.
    """
    device = next(model.parameters()).device
    pixels = eval_pixels(image, card.resolution)
    batch = normalise(torch.from_numpy(pixels), card.mean, card.std)[None].to(device)
    ids, lengths = coded_texts([text], model.shape, device)
    looked = model.looked_at(batch, ids, lengths)[0, : int(lengths[0])].float().cpu()
    coder = model.shape.coder
    tokens = ids[0, : int(lengths[0])].tolist()
    drawn = [
        (coder.decode([token]), weights)
        for token, weights in zip(tokens, looked, strict=True)
        if not coder.is_special(token)
    ][:MOST_WORDS]
    return _drawn(pixels.transpose(1, 2, 0), drawn, title)


def _drawn(
    pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]],
    words: Sequence[tuple[str, Tensor]],
    title: str,
) -> bytes:
    """Maps of square images: a row of weights is the square map's, row by row."""
    rows = max(1, -(-len(words) // COLUMNS))
    figure = Figure(figsize=(2.2 * COLUMNS, 2.6 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, COLUMNS, squeeze=False)
    for axis in axes.flat:
        axis.axis("off")
    height, width = pixels.shape[:2]
    for axis, (word, weights) in zip(axes.flat, words, strict=False):
        side = round(len(weights) ** 0.5)
        axis.imshow(pixels, extent=(0, width, height, 0))
        axis.imshow(
            weights.view(side, -1).numpy(),
            extent=(0, width, height, 0),
            alpha=0.55,
            cmap="inferno",
            interpolation="bilinear",
        )
        axis.set_title(word, fontsize=9, parse_math=False)
    figure.suptitle(title, fontsize=10, parse_math=False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return buffer.getvalue()
