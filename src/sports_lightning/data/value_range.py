"""Which values of 16- and 32-bit pixels are black and white: one range per dataset, never per image.

Images of 8 bits are used as they are. A checkpoint holds the range of the dataset that it was trained on, and other
commands apply it.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Literal

from sports_lightning.data.file_hashes import FileCheck
from sports_lightning.data.modes import SIXTEEN_BITS
from sports_lightning.errors import UserError

log = logging.getLogger(__name__)

ValueRange = tuple[float, float]
Setting = Literal["auto"] | Sequence[float]  # `data.value_range`

Choose = Callable[[Setting, Sequence[FileCheck], str], ValueRange | None]

_BITS = (8, 10, 12, 14, 16)  # of cameras and scanners
_NEARLY_BLACK = 1 / 16  # of the range
_OVERSHOOT = 1 / 8  # of the range: resampling of floating-point images exceeds it at edges


def choose_value_range(setting: Setting, checks: Sequence[FileCheck], where: str) -> ValueRange | None:
    """The value range of a dataset; None if all of its images have 8 bits.

    With "auto" it is 0..1 for floating-point values of about 1 at most, and otherwise 0 to the largest number of the
    fewest bits (8, 10, 12, 14 or 16) that hold every value. Floating-point values may exceed it by an eighth, as
    resampling makes them, and are clipped.

    Args:
        setting: "auto", or the values of black and white.
        checks: of the files that the range is chosen from, and not those of the test split.
        where: the dataset, for messages.

    Raises:
        UserError: with "auto", integer and floating-point images, negative values, values of more than 16 bits, or
            floating-point values between 9/8 and 255/16, where neither 1 nor 255 is white; colors of 16 bits that use
            14 or fewer, unless the setting is 0 to 65535.
    """
    if setting != "auto":
        return _with_warning((float(setting[0]), float(setting[1])), checks, where)
    _check_colors(checks, where)
    gray = _gray(checks)
    if not gray:
        return None
    kinds = sorted({check.high_depth for check in gray})
    low, high = min(check.low for check in gray), max(check.high for check in gray)
    white = _white(high, kinds == ["floating-point"]) if low >= 0 and len(kinds) == 1 else None
    if white is not None:
        return _with_warning((0.0, white), checks, where)
    raise UserError(
        f"{where} has {' and '.join(kinds)} images with values from {low:g} to {high:g}: convert them to 8 bits or, in "
        f"a command, set data.value_range=[LOW,HIGH], the values of black and white"
    )


def _white(highest: float, is_float: bool) -> float | None:
    """The value of white in images whose black is 0, by their highest value; None if it is not known."""
    if not is_float:
        return next((2.0**bits - 1 for bits in _BITS if highest < 2**bits), None)
    whites = [1.0, *(2.0**bits - 1 for bits in _BITS)]
    white = next((white for white in whites if highest <= white * (1 + _OVERSHOOT)), None)
    return None if white == whites[1] and highest < white * _NEARLY_BLACK else white


def value_range_for_checkpoint(
    stored: ValueRange | None, setting: Setting, checks: Sequence[FileCheck], where: str
) -> ValueRange | None:
    """The value range by which a trained classifier reads images, or a new training its test images.

    Args:
        stored: of the training images; None if they have 8 bits.
        setting: `data.value_range`; "auto" uses the stored one.
        checks: of the files to read.
        where: these files, for messages.

    Raises:
        UserError: none is stored, and the files do not have 8 or 16 bits.
    """
    if setting == "auto" and stored is not None:
        return _with_warning(stored, checks, where)
    found = choose_value_range(setting, checks, where)
    if setting == "auto" and found not in (None, SIXTEEN_BITS):
        assert found is not None
        raise UserError(
            f"{where} has images with values up to {max(check.high for check in _gray(checks)):g}, and the model "
            f"was not trained on such images: convert them to 8 bits or, in a command, set "
            f"data.value_range=[{found[0]:g},{found[1]:g}] to use them"
        )
    return found


def _gray(checks: Sequence[FileCheck]) -> list[FileCheck]:
    """Those of gray images of 16 or 32 bits."""
    return [check for check in checks if check.high_depth not in ("", "color")]


def _check_colors(checks: Sequence[FileCheck], where: str) -> None:
    """Refuse 12-bit colors in 16-bit files: Pillow keeps the upper 8 of 16 bits, which are nearly black."""
    highest = [check.high for check in checks if check.high_depth == "color"]
    if highest and max(highest) < 2**14:
        raise UserError(
            f"the 16-bit color images in {where} hold values up to {max(highest):g} only, and Pillow keeps the upper "
            f"8 of their 16 bits: scale them to 0..65535 or, in a command, set data.value_range=[0,65535] to use them "
            f"as they are"
        )


def _with_warning(value_range: ValueRange, checks: Sequence[FileCheck], where: str) -> ValueRange:
    """`value_range`, after a warning if it does not fit the images.

    Raises:
        UserError: see `_check_colors`.
    """
    if value_range != SIXTEEN_BITS:
        _check_colors(checks, where)
    low, high = value_range
    gray = _gray(checks)
    if clipped := sum(check.low < low or check.high > high for check in gray):
        log.warning("%d images in %s hold values outside of %g to %g, which are clipped", clipped, where, low, high)
    elif gray and max(check.high for check in gray) < low + _NEARLY_BLACK * (high - low):
        log.warning("the images in %s are nearly black: no value is near %g, which is white", where, high)
    return value_range
