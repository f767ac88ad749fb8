"""Conversion of Pillow's image modes to 8-bit RGB."""

import numpy as np
from PIL import Image

LEAST_DEEP_MAXIMUM = 2**14  # a dataset whose 16-bit images stay below this has 14 bits or fewer


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to 8-bit RGB: transparency becomes white, and only the first frame of an animation is used.

    16-bit values are taken to span 0..65535 in every image, so that brightness is comparable between images.

    Raises:
        ValueError: 32-bit pixels (see `check_mode`).
    """
    check_mode(image)
    if image.mode.startswith("I;16"):  # Pillow's own conversion clips at 255, which makes an image white
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    elif image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


def check_mode(image: Image.Image) -> None:
    """Raise ValueError for 32-bit pixels, whose range is not known."""
    if image.mode in ("I", "F"):
        kind = "integer" if image.mode == "I" else "floating-point"
        raise ValueError(f"32-bit {kind} pixels, whose range is unknown: convert the image to 8 or 16 bits")


def deep_maximum(image: Image.Image) -> int:
    """The largest value of a 16-bit image; 0 for an image of 8 bits."""
    return int(np.asarray(image).max()) if image.mode.startswith("I;16") else 0
