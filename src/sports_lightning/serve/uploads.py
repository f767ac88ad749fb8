"""The images in a request: as files of a form (multipart/form-data), or in base64 (application/json)."""

import asyncio
import base64
import binascii
import json
import re
from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import NamedTuple

from omegaconf import DictConfig
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from sports_lightning.data.file_hashes import printable
from sports_lightning.serve.refusal import Refusal

_DATA_URI = re.compile(r"data:[\w.+-]+/[\w.+-]+;base64,")
_NAME_LENGTH = 200


class Upload(NamedTuple):
    """An image of a request.

    Attributes:
        name: of the file, on one line; of an image in JSON, its position, from 1.
        content: of the file.
    """

    name: str
    content: bytes


class _InMemoryParser(MultiPartParser):
    """Keeps files in memory; their size is limited by that of the body."""

    spool_max_size = 2**40
    has_ended = False

    def on_end(self) -> None:
        """The last boundary has arrived."""
        self.has_ended = True


async def read_uploads(request: Request, limits: DictConfig, most: int | None = None) -> list[Upload]:
    """Read the images of a request.

    Args:
        request: its body is read here.
        limits: of `conf/serve.yaml`.
        most: images in the request; None: `limits.images`.

    Raises:
        Refusal: 400 for a malformed request, 408 for one that arrives too slowly, 413 for too large a body or too many
            images, 415 for another type of content.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind not in ("multipart/form-data", "application/json"):
        raise Refusal(
            HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send multipart/form-data with files, or application/json with base64"
        )
    most = most or limits.images
    try:
        async with asyncio.timeout(limits.seconds):
            if kind == "application/json":
                body = b"".join([chunk async for chunk in _limited(request, limits.body_mb)])
                uploads = await asyncio.to_thread(_from_json, body, most)
            else:
                uploads = await _from_form(request, limits.body_mb, most)
    except TimeoutError:
        raise Refusal(
            HTTPStatus.REQUEST_TIMEOUT, f"the request has not arrived within limits.seconds={limits.seconds:g}"
        ) from None
    if not uploads:
        raise Refusal(HTTPStatus.BAD_REQUEST, "there is no image in the request")
    return uploads


async def _limited(request: Request, body_mb: float) -> AsyncGenerator[bytes, None]:
    """The chunks of the body."""
    most, size = int(body_mb * 1e6), 0
    declared = request.headers.get("content-length", "")
    too_large = Refusal(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"the request is larger than limits.body_mb={body_mb:g} megabytes"
    )
    if declared.isdecimal() and int(declared) > most:
        raise too_large
    async for chunk in request.stream():
        size += len(chunk)
        if size > most:
            raise too_large
        yield chunk


def _too_many(most: int) -> Refusal:
    return Refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"a request may have {most} image{'s' * (most > 1)} here")


async def _from_form(request: Request, body_mb: float, most: int) -> list[Upload]:
    parser = _InMemoryParser(request.headers, _limited(request, body_mb), max_files=most + 1, max_fields=most)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many files"):
            raise _too_many(most) from None
        raise Refusal(HTTPStatus.BAD_REQUEST, f"the form can't be read: {error.message}") from None
    except (KeyError, ValueError, UnicodeError) as error:  # such as a boundary that is missing
        raise Refusal(HTTPStatus.BAD_REQUEST, f"the form can't be read: {' '.join(str(error).split())}") from None
    if not parser.has_ended:
        raise Refusal(HTTPStatus.BAD_REQUEST, "the form ends before its last boundary")
    uploads = []
    for field, value in form.multi_items():
        if not isinstance(value, UploadFile):
            raise Refusal(HTTPStatus.BAD_REQUEST, f"the field {printable(field)[:_NAME_LENGTH]!r} is not a file")
        uploads.append(Upload(printable(value.filename or "")[:_NAME_LENGTH], await value.read()))
    if len(uploads) > most:
        raise _too_many(most)
    return uploads


def _from_json(body: bytes, most: int) -> list[Upload]:
    try:
        values = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, f"the body is not JSON: {' '.join(str(error).split())}") from None
    images = values.get("images") if isinstance(values, dict) else None
    if not isinstance(images, list) or not all(isinstance(image, str) for image in images):
        raise Refusal(HTTPStatus.BAD_REQUEST, 'the body must be {"images": [BASE64, …]}')
    if len(images) > most:
        raise _too_many(most)
    return [Upload(str(number), _from_base64(image, number)) for number, image in enumerate(images, 1)]


def _from_base64(text: str, number: int) -> bytes:
    try:
        start = _DATA_URI.match(text)
        return base64.b64decode(text[start.end() :] if start else text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise Refusal(HTTPStatus.BAD_REQUEST, f"image {number} is not base64: {error}") from None
