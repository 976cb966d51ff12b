"""RandAugment (Cubuk et al. 2020, arXiv 1909.13719): a few random operations on an image.

The fourteen operations and their ranges are AutoAugment's. Strength rises linearly with the
magnitude from 0 to 10; where an operation has two directions, one is drawn.

==================  ==============================  =======================================
operation           magnitude 0                     magnitude 10
==================  ==============================  =======================================
identity            the image                       the image
auto_contrast       channels stretched to 0 … 255   the same
equalize            flat histograms                 the same
rotate              0 degrees                       30 degrees to either side
shear_x, shear_y    0                               0.3 to either side
translate_x, _y     0                               0.45 of the side to either side
posterize           8 bits a channel                4 bits
solarize            nothing inverted                all inverted
color, contrast,    the image                       0.1 or 1.9 times the saturation,
brightness,                                         contrast, brightness or sharpness
sharpness
==================  ==============================  =======================================

What comes in from outside is grey.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from PIL import Image, ImageEnhance, ImageOps

HIGHEST = 10.0
"""The magnitude at which every operation is strongest."""

_GREY = (128, 128, 128)
_Size = tuple[float, float, float, float, float, float]

Operation = Callable[[Image.Image, float], Image.Image]
"""Of an RGB image and a strength in [-1, 1], whose sign is the direction."""


def rand_augment(
    image: Image.Image, *, operations: int, magnitude: float, draw: Iterator[float]
) -> Image.Image:
    """The image after operations drawn with replacement; a pure function of its arguments.

    Args:
        image: RGB.
        operations: how many, one after the other.
        magnitude: of all of them, in [0, 10].
        draw: numbers in [0, 1); two are taken for each operation.

    Returns:
        An RGB image of the same size.
    """
    names = list(OPERATIONS)
    for _ in range(operations):
        name = names[int(next(draw) * len(names))]
        sign = 1.0 if next(draw) < 0.5 else -1.0
        image = OPERATIONS[name](image, sign * magnitude / HIGHEST)
    return image


def _moved(image: Image.Image, data: _Size) -> Image.Image:
    return image.transform(
        image.size,
        Image.Transform.AFFINE,
        data,
        resample=Image.Resampling.BICUBIC,
        fillcolor=_GREY,
    )


def _rotate(image: Image.Image, strength: float) -> Image.Image:
    return image.rotate(30 * strength, Image.Resampling.BICUBIC, fillcolor=_GREY)


def _shear_x(image: Image.Image, strength: float) -> Image.Image:
    return _moved(image, (1, 0.3 * strength, 0, 0, 1, 0))


def _shear_y(image: Image.Image, strength: float) -> Image.Image:
    return _moved(image, (1, 0, 0, 0.3 * strength, 1, 0))


def _translate_x(image: Image.Image, strength: float) -> Image.Image:
    return _moved(image, (1, 0, 0.45 * strength * image.width, 0, 1, 0))


def _translate_y(image: Image.Image, strength: float) -> Image.Image:
    return _moved(image, (1, 0, 0, 0, 1, 0.45 * strength * image.height))


def _posterize(image: Image.Image, strength: float) -> Image.Image:
    return ImageOps.posterize(image, 8 - round(4 * abs(strength)))


def _solarize(image: Image.Image, strength: float) -> Image.Image:
    return ImageOps.solarize(image, round(256 * (1 - abs(strength))))


def _enhanced(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> Operation:
    def operation(image: Image.Image, strength: float) -> Image.Image:
        return kind(image).enhance(1 + 0.9 * strength)

    return operation


OPERATIONS: dict[str, Operation] = {
    "identity": lambda image, strength: image,
    "auto_contrast": lambda image, strength: ImageOps.autocontrast(image),
    "equalize": lambda image, strength: ImageOps.equalize(image),
    "rotate": _rotate,
    "solarize": _solarize,
    "color": _enhanced(ImageEnhance.Color),
    "posterize": _posterize,
    "contrast": _enhanced(ImageEnhance.Contrast),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "shear_x": _shear_x,
    "shear_y": _shear_y,
    "translate_x": _translate_x,
    "translate_y": _translate_y,
}
