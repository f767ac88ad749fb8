"""Blobs: the parts of an image that stand out, described so that they are found again in a crop or a recolored copy.

Blobs are extrema of a difference-of-Gaussians scale space (Lowe 2004). Around each one, a square window proportional to
its scale is described like a whole image in `duplicates`: by weighted low frequencies, here reduced to the signs of 64
random projections (Charikar 2002). Windows are not rotated, because copies are not either.
"""

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from PIL import Image
from scipy.fft import dct

SIDE = 96  # square root of the number of pixels in which blobs are searched
MOST = 48  # blobs per image: the strongest ones
_SCALES = [1.4 * 2 ** (i / 3) for i in range(9)]  # standard deviations in pixels
_REACH = 6.0  # half the side of a window, in standard deviations
_BEYOND = 0.15  # share of the reach that may lie outside the image
_LEAST = 1.0  # gray levels of an extremum
_SAMPLES, _FREQUENCIES = 16, 8  # per side of a window, and of its cosine transform
_NEIGHBOURHOOD = np.ones((3, 3), np.uint8)
_TRANSFORM = dct(np.eye(_SAMPLES), axis=0, norm="ortho")[:_FREQUENCIES].astype(np.float32)
_WEIGHTS = np.hypot(*np.mgrid[:_FREQUENCIES, :_FREQUENCIES]).astype(np.float32)
_GRID = _REACH * ((np.arange(_SAMPLES, dtype=np.float32) + 0.5) / _SAMPLES * 2 - 1)
_PLANES = np.random.default_rng(0).standard_normal((_FREQUENCIES**2 - 1, 64)).astype(np.float32)
_MIRROR = np.tile(1 - 2 * (np.arange(_FREQUENCIES) % 2), _FREQUENCIES)[1:].astype(np.float32)


@dataclass(frozen=True)
class Blobs:
    """The m blobs of an image, or of several.

    Attributes:
        place: (m, 3) float32: x and y of the center and the standard deviation, in units of the square root of the
            image's area.
        signature: (m, 2) uint64: the signs of 64 projections of the window, and of its mirror image.
    """

    place: np.ndarray
    signature: np.ndarray


def no_blobs() -> Blobs:
    """The blobs of an image that can't be read."""
    return Blobs(np.zeros((0, 3), np.float32), np.zeros((0, 2), np.uint64))


def find_blobs(image: Image.Image) -> Blobs:
    """The strongest blobs of a gray image of any size, at most 48."""
    scale = SIDE / (image.width * image.height) ** 0.5
    size = [max(8, round(side * scale)) for side in image.size]
    pixels = np.asarray(image.resize(size, Image.Resampling.BILINEAR), dtype=np.float32)
    blurred = np.empty((len(_SCALES), *pixels.shape), np.float32)
    cv2.GaussianBlur(pixels, (0, 0), _SCALES[0], dst=blurred[0])
    for i, (finer, coarser) in enumerate(pairwise(_SCALES)):
        cv2.GaussianBlur(blurred[i], (0, 0), (coarser**2 - finer**2) ** 0.5, dst=blurred[i + 1])
    where, place = _extrema(blurred[1:] - blurred[:-1])
    windows = _windows(blurred, where, place)
    spectra = (_TRANSFORM @ windows @ _TRANSFORM.T * _WEIGHTS).reshape(len(windows), _FREQUENCIES**2)[:, 1:]
    signature = np.stack([_signs(spectra @ _PLANES), _signs((spectra * _MIRROR) @ _PLANES)], axis=1)
    return Blobs(place / np.float32(SIDE), signature)


def _extrema(differences: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Layers (m,) and places (m, 3) in pixels of the strongest extrema, refined by parabolas."""
    inner = differences[1:-1]
    highest, lowest = (
        np.stack([function(layer, _NEIGHBOURHOOD) for layer in differences]) for function in (cv2.dilate, cv2.erode)
    )
    is_high = (inner >= highest[:-2]) & (inner >= highest[1:-1]) & (inner >= highest[2:])
    is_low = (inner <= lowest[:-2]) & (inner <= lowest[1:-1]) & (inner <= lowest[2:])
    extrema = np.flatnonzero(is_high | is_low)
    extrema = extrema[np.abs(inner.ravel()[extrema]) >= _LEAST]
    layer, y, x = np.unravel_index(extrema, inner.shape)
    layer = layer + 1
    scale = np.array(_SCALES)[layer]
    height, width = inner.shape[1:]
    margin = (1 - _BEYOND) * _REACH * scale
    inside = (x >= margin) & (x < width - margin) & (y >= margin) & (y < height - margin)
    strength = np.abs(differences[layer, y, x]) * np.sqrt(scale)
    kept = np.argsort(np.where(inside, -strength, np.inf), kind="stable")[: min(MOST, inside.sum())]
    at = layer[kept], y[kept], x[kept]
    shifts = [_vertex(differences, at, axis) for axis in range(3)]
    place = np.stack([at[2] + shifts[2], at[1] + shifts[1], scale[kept] * 2 ** (shifts[0] / 3)], axis=1)
    return at[0], place.astype(np.float32)


def _vertex(values: np.ndarray, at: tuple[np.ndarray, ...], axis: int) -> np.ndarray:
    """Where along an axis the parabola through a value and its two neighbours has its vertex; (m,) in -0.5..0.5."""
    before, after = ([*at], [*at])
    before[axis], after[axis] = at[axis] - 1, at[axis] + 1
    low, middle, high = values[tuple(before)], values[at], values[tuple(after)]
    curvature = low - 2 * middle + high
    return np.where(curvature == 0, 0, 0.5 * (low - high) / np.where(curvature == 0, 1, curvature)).clip(-0.5, 0.5)


def _windows(layers: np.ndarray, where: np.ndarray, place: np.ndarray) -> np.ndarray:
    """(m, 16, 16) pixels around each blob, of the layer in which it is."""
    height, width = layers.shape[1:]
    columns = np.rint(place[:, :1] + place[:, 2:] * _GRID).astype(np.int32).clip(0, width - 1)
    rows = np.rint(place[:, 1:2] + place[:, 2:] * _GRID).astype(np.int32).clip(0, height - 1)
    return layers[where[:, None, None], rows[:, :, None], columns[:, None, :]]


def _signs(projections: np.ndarray) -> np.ndarray:
    """(m,) uint64 whose bits are the signs of (m, 64)."""
    return np.packbits(projections > 0, axis=1).view(np.uint64)[:, 0] if len(projections) else np.zeros(0, np.uint64)
