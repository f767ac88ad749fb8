"""Whether two images show one photograph: other crops, recolored versions, or copies with a strip of text.

Local features (SIFT, Lowe 2004) are matched, an affine map is fitted to them by RANSAC (Fischler and Bolles 1981), and
the pixels are compared block by block where the images overlap. Two frames of a video or a burst count as one
photograph only if nearly all blocks agree, that is, if hardly anything moved. A logo, a scoreboard or a background in
common is not enough, because the matches have to be spread over the image, and the blocks have to agree.
"""

from typing import NamedTuple

import cv2
import numpy as np

SIDE = 224  # the longer side of the images compared, in pixels
_FEATURES = 300
_RATIO = 0.8  # distance to the nearest feature, relative to the second nearest (Lowe 2004)
_ERROR = 3.0  # pixels
_BLOCK = 16  # pixels
_LEAST_CONTRAST = 3.0  # standard deviation in gray levels of a block that is compared
_AGREEING = 0.5  # least correlation of blocks that agree
# Chosen by inspecting pairs of the training and validation images of 100 Sports.
_INLIERS, _SPREAD, _OVERLAP, _SHARE, _CORRELATION = 10, 0.1, 0.4, 0.7, 0.96


class Alignment(NamedTuple):
    """How well two images fit onto each other.

    Attributes:
        inliers: number of feature matches that agree with the affine map.
        spread: area of the rectangle around them, relative to the first image.
        overlap: overlapping area, relative to the smaller of both images.
        share: share of the compared blocks that agree, between 0 and 1.
        correlation: median correlation of the blocks.
    """

    inliers: int
    spread: float
    overlap: float
    share: float
    correlation: float

    @property
    def is_same_photograph(self) -> bool:
        """Whether all measures reach their thresholds."""
        return (
            self.inliers >= _INLIERS
            and self.spread >= _SPREAD
            and self.overlap >= _OVERLAP
            and self.share >= _SHARE
            and self.correlation >= _CORRELATION
        )


NO_ALIGNMENT = Alignment(0, 0.0, 0.0, 0.0, 0.0)


class Described(NamedTuple):
    """A gray image with its local features.

    Attributes:
        image: (height, width) uint8 whose longer side has `SIDE` pixels.
        points: (m, 2) float32, x and y of each feature in pixels.
        features: (m, 128) float32, their descriptions.
    """

    image: np.ndarray
    points: np.ndarray
    features: np.ndarray


def describe(image: np.ndarray) -> Described:
    """Find the features of a gray image (height, width) uint8 whose longer side has `SIDE` pixels."""
    points, features = cv2.SIFT.create(_FEATURES).detectAndCompute(image, None)
    if features is None:
        features = np.zeros((0, 128), np.float32)
    return Described(image, np.array([point.pt for point in points], np.float32).reshape(-1, 2), features)


def align(one: Described, other: Described) -> Alignment:
    """Align two images."""
    if min(len(one.points), len(other.points)) < _INLIERS:
        return NO_ALIGNMENT
    matches = cv2.BFMatcher(cv2.NORM_L2).knnMatch(one.features, other.features, k=2)
    good = [match for match, following in matches if match.distance < _RATIO * following.distance]
    if len(good) < _INLIERS:
        return NO_ALIGNMENT
    first, second = one.image, other.image
    source = one.points[[match.queryIdx for match in good]]
    target = other.points[[match.trainIdx for match in good]]
    cv2.setRNGSeed(0)
    matrix, inlying = cv2.estimateAffine2D(source, target, method=cv2.RANSAC, ransacReprojThreshold=_ERROR)
    if matrix is None or not _is_upright(matrix):
        return NO_ALIGNMENT
    inliers = np.unique(np.rint(source[inlying[:, 0] > 0]), axis=0)
    if len(inliers) < _INLIERS:
        return NO_ALIGNMENT
    spread = float(np.prod(np.ptp(inliers, axis=0)) / first.size)
    overlap, share, correlation = _compare(first, second, matrix)
    return Alignment(len(inliers), spread, overlap, share, correlation)


def _is_upright(matrix: np.ndarray) -> bool:
    """Whether an affine map scales by less than 3, and hardly rotates or shears: copies are rarely rotated."""
    scale = np.array([matrix[0, 0], matrix[1, 1]])
    return bool((scale > 1 / 3).all() and (scale < 3).all() and abs(matrix[[0, 1], [1, 0]] / scale).max() < 0.1)


def _compare(first: np.ndarray, second: np.ndarray, matrix: np.ndarray) -> tuple[float, float, float]:
    """The last three attributes of an alignment, of the second image warped onto the first one by a (2, 3) map."""
    height, width = first.shape
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(second, matrix, (width, height), flags=flags)
    inside = cv2.warpAffine(np.full(second.shape, 255, np.uint8), matrix, (width, height), flags=flags) == 255
    scale = abs(np.linalg.det(matrix[:, :2]))  # of an area of the first image in the second one
    overlap = inside.sum() / min(first.size, second.size / scale)
    # Slightly blurred, because one of them may be enlarged.
    blocks = [_blocks(cv2.GaussianBlur(image, (0, 0), 1.0).astype(np.float32)) for image in (first, warped)]
    whole = _blocks(inside.astype(np.float32)).min(axis=1) > 0
    centered = [block - block.mean(axis=1, keepdims=True) for block in blocks]
    deviations = np.stack([block.std(axis=1) for block in blocks])
    compared = whole & (deviations.max(axis=0) >= _LEAST_CONTRAST)
    if not compared.any():
        return float(overlap), 0.0, 0.0
    product = (centered[0] * centered[1]).mean(axis=1) / np.maximum(deviations.prod(axis=0), 1.0)
    correlations = product[compared]
    return float(overlap), float((correlations >= _AGREEING).mean()), float(np.median(correlations))


def _blocks(pixels: np.ndarray) -> np.ndarray:
    """(number, 256) pixels of the blocks of an image; a rest at the right and the lower edge is left out."""
    rows, columns = pixels.shape[0] // _BLOCK, pixels.shape[1] // _BLOCK
    cut = pixels[: rows * _BLOCK, : columns * _BLOCK].reshape(rows, _BLOCK, columns, _BLOCK)
    return cut.transpose(0, 2, 1, 3).reshape(rows * columns, _BLOCK**2)


def correlation_of_thumbnails(first: np.ndarray, second: np.ndarray, transform: np.ndarray, mirrored: bool) -> float:
    """Correlation of two thumbnails (32, 32) that overlap by a transform of `BlobMatches`, a quick first check."""
    side = first.shape[0]
    zoom, right, down = transform
    sign = -1 if mirrored else 1
    # A pixel i lies at (i + 0.5) / side.
    across = [sign * zoom, 0, side * right + 0.5 * sign * zoom - 0.5]
    along = [0, zoom, side * down + 0.5 * zoom - 0.5]
    matrix = np.array([across, along])
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    warped = cv2.warpAffine(second, matrix, (side, side), flags=flags)
    inside = cv2.warpAffine(np.full_like(second, 255), matrix, (side, side), flags=flags) == 255
    if inside.sum() < side * side / 8:
        return 0.0
    pixels = np.stack([first[inside], warped[inside]]).astype(np.float32)
    deviations = pixels.std(axis=1)
    pixels -= pixels.mean(axis=1, keepdims=True)
    return float((pixels[0] * pixels[1]).mean() / max(float(deviations.prod()), 1e-3))
