"""Any of Pillow's modes as 8-bit RGB. No torch in here."""

import numpy as np
from PIL import Image


def to_rgb(image: Image.Image) -> Image.Image:
    """Any PIL mode as 8-bit RGB: 16-bit scaled to 8, transparency laid over white, the first frame of an animation."""
    if image.mode.startswith("I"):  # PIL's own conversion clips 16-bit values at 255, which gives a white image
        values = np.asarray(image)
        image = Image.fromarray((values // 257 if values.max() > 255 else values).astype(np.uint8))
    elif image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")
