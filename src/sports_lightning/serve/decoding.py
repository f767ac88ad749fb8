"""From the bytes of an uploaded image to the input of the network, by the decoder and the limits of `predict`."""

from collections.abc import Callable
from http import HTTPStatus

from PIL import Image
from torch import Tensor

from sports_lightning.data.decode import decode
from sports_lightning.data.file_hashes import FileCheck, high_depth
from sports_lightning.data.formats import check_pixels, is_too_large, open_image
from sports_lightning.data.preprocessing import Preprocessing
from sports_lightning.data.value_range import Setting, ValueRange, value_range_for_checkpoint
from sports_lightning.errors import UnreadableImage, UserError
from sports_lightning.serve.refusal import Refusal


class ImageReader:
    """Decodes and preprocesses images.

    Args:
        preprocessing: of the classifier.
        value_range: `data.value_range`.
    """

    def __init__(self, preprocessing: Preprocessing, value_range: Setting) -> None:
        self.preprocessing, self.value_range = preprocessing, value_range
        self._transform: Callable[[Tensor], Tensor] = preprocessing.transform()

    def __call__(self, content: bytes) -> Tensor:
        """The content of an image file to uint8 (3, height, width), the input of `Classifier`.

        Raises:
            Refusal: 413 for too many pixels, 415 for what is not an image, 422 for an image that can't be decoded.
        """
        try:
            value_range = self._value_range(content)
            return self._transform(decode(content, self.preprocessing.least_side, value_range))
        except UnreadableImage as error:
            reason = str(error).removeprefix("can't read these bytes as an image: ")
            raise Refusal(_status(error, reason), reason) from error
        except UserError as error:
            raise Refusal(HTTPStatus.UNPROCESSABLE_ENTITY, str(error)) from error

    def _value_range(self, content: bytes) -> ValueRange | None:
        """The values of 16- and 32-bit pixels that become black and white, as in `predict` of this image alone."""
        try:
            with open_image(content) as image:
                check_pixels(image)
                found = high_depth(image)
        except Exception:  # Pillow's plugins raise a dozen types; `decode` says what is wrong
            found = None
        stored = self.preprocessing.value_range
        if found is None:
            return stored
        check = FileCheck("", "", 0, *found)
        return value_range_for_checkpoint(stored, self.value_range, [check], "the image") or stored


def _status(error: UnreadableImage, reason: str) -> HTTPStatus:
    if is_too_large(reason):
        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    is_image = not isinstance(error.__cause__, Image.UnidentifiedImageError) and "vector graphics" not in reason
    return HTTPStatus.UNPROCESSABLE_ENTITY if is_image else HTTPStatus.UNSUPPORTED_MEDIA_TYPE
