"""The classifier behind the server: decoding, the network and explanations run in threads of their own."""

import asyncio
import io
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from http import HTTPStatus
from typing import TypeVar

import torch
from omegaconf import DictConfig
from torch import Tensor

from sports_lightning.evaluate.decisions import DecisionSettings, decide
from sports_lightning.models.classifier import Classifier
from sports_lightning.reports.decorations import short_reason
from sports_lightning.reports.gradcam import draw_heatmaps
from sports_lightning.serve.answers import Neighbours, Predictions, VideoAnswer, describe
from sports_lightning.serve.decoding import ImageReader
from sports_lightning.serve.neighbours import NoNeighbours, find_training_images
from sports_lightning.serve.network import Network
from sports_lightning.serve.refusal import Refusal
from sports_lightning.serve.uploads import Upload
from sports_lightning.serve.videos import answer_video
from sports_lightning.storage.parallel import usable_cores

Result = TypeVar("Result")


class Service:
    """Answers requests. Its coroutines run in the event loop of the server.

    Args:
        classifier: as `load_classifier` returns it.
        cfg: `conf/serve.yaml`.

    Raises:
        UserError: a checkpoint that can't decide as `reject` and `coverage` ask.

    Attributes:
        requests: number of requests in progress.
        decisions: which are made beyond the probabilities.
        neighbours: finds similar training images, or says why it can't.
    """

    def __init__(self, classifier: Classifier, cfg: DictConfig) -> None:
        self.classifier, self.cfg, self.limits = classifier, cfg, cfg.limits
        self.requests = 0
        self.decisions = DecisionSettings(cfg.reject, cfg.coverage, cfg.conformal)
        decide(classifier, torch.zeros(1, len(classifier.spec.classes)), self.decisions)  # refuses what it can't do
        self.network = Network(Classifier.forward, classifier, cfg.inference)
        self.neighbours = find_training_images(classifier, cfg.ckpt_path)
        self._read = ImageReader(classifier.preprocessing, cfg.data.value_range)
        self._decoders = ThreadPoolExecutor(usable_cores(), "decoder")
        self._watcher = ThreadPoolExecutor(1, "watcher")  # one video at a time, so that images are answered meanwhile
        self._explainer = ThreadPoolExecutor(1, "explainer")  # Grad-CAM attaches hooks to the network

    @asynccontextmanager
    async def answering(self) -> AsyncIterator[None]:
        """Within it, a request is answered.

        Raises:
            Refusal: 503 if too many requests are in progress.
        """
        if self.requests >= self.limits.requests:
            reason = f"limits.requests={self.limits.requests} are in progress: try again in a second"
            raise Refusal(HTTPStatus.SERVICE_UNAVAILABLE, reason)
        self.requests += 1
        try:
            yield
        finally:
            self.requests -= 1

    async def predict(self, uploads: Sequence[Upload]) -> Predictions:
        """Predict images.

        Raises:
            Refusal: an image that can't be decoded, or 504 after `limits.seconds`.
        """
        async with self._deadline():
            logits = await self._run(await self._decode(uploads))
        decisions = decide(self.classifier, logits, self.decisions)
        return describe([upload.name for upload in uploads], logits, decisions, self.classifier.spec.classes)

    async def heatmap(self, upload: Upload) -> bytes:
        """The Grad-CAM heat map of the prediction of an image, as PNG.

        Raises:
            Refusal: as `predict`, and 501 of a model that has no such maps.
        """
        async with self._deadline():
            images = await self._decode([upload])
            predicted = (await self._run(images)).argmax(dim=1)
            return await self._explain(self._draw, images, predicted)

    async def similar_images(self, upload: Upload) -> Neighbours:
        """The training images that are most similar to an image.

        Raises:
            Refusal: as `predict`, and 501 if the features of the training images are not cached.
        """
        if isinstance(self.neighbours, NoNeighbours):
            raise Refusal(HTTPStatus.NOT_IMPLEMENTED, self.neighbours.reason)
        async with self._deadline():
            images = await self._decode([upload])
            return await self._explain(self.neighbours.find, images)

    async def video(self, upload: Upload) -> VideoAnswer:
        """The segments of a video.

        Raises:
            Refusal: a file that is no video, no PyAV, or 504 after `limits.seconds`.
        """
        loop, deadline = asyncio.get_running_loop(), time.monotonic() + self.limits.seconds
        async with self._deadline():
            return await loop.run_in_executor(
                self._watcher, answer_video, upload, self.classifier, self.network, deadline
            )

    def close(self) -> None:
        """End all threads, once no request is in progress."""
        self._decoders.shutdown(cancel_futures=True)
        self._explainer.shutdown(cancel_futures=True)
        self._watcher.shutdown(cancel_futures=True)
        self.network.stop()

    @asynccontextmanager
    async def _deadline(self) -> AsyncIterator[None]:
        seconds = self.limits.seconds
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError:
            reason = f"not answered within limits.seconds={seconds:g}: the server is busy, try again later"
            raise Refusal(HTTPStatus.GATEWAY_TIMEOUT, reason) from None

    async def _decode(self, uploads: Sequence[Upload]) -> list[Tensor]:
        loop = asyncio.get_running_loop()
        jobs = [loop.run_in_executor(self._decoders, self._read, upload.content) for upload in uploads]
        images = await asyncio.gather(*jobs, return_exceptions=True)
        for number, (upload, image) in enumerate(zip(uploads, images, strict=True), 1):
            if isinstance(image, Refusal):
                where = f"image {number} ({upload.name}): " if len(uploads) > 1 else ""
                raise Refusal(image.status, f"{where}{image.reason}")
            if isinstance(image, BaseException):
                raise image
        return images  # type: ignore[return-value]  # no exception is left

    async def _run(self, images: Sequence[Tensor]) -> Tensor:
        """The outputs (n, …) of the network for preprocessed images."""
        return torch.stack(await asyncio.gather(*(asyncio.wrap_future(self.network.submit(image)) for image in images)))

    async def _explain(self, function: Callable[..., Result], images: Sequence[Tensor], *more: Tensor) -> Result:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._explainer, function, torch.stack(list(images)), *more)
        except (Refusal, asyncio.CancelledError):
            raise
        except Exception as error:  # whatever a model's code raises while gradients are computed
            reason = f"this model can't be explained: {short_reason(error)}"
            raise Refusal(HTTPStatus.NOT_IMPLEMENTED, reason) from error

    def _draw(self, images: Tensor, predicted: Tensor) -> bytes:
        drawn = draw_heatmaps(self.classifier, images, predicted)
        if not drawn:
            reason = "this model does not end with feature maps, which a heat map needs"
            raise Refusal(HTTPStatus.NOT_IMPLEMENTED, reason)
        buffer = io.BytesIO()
        drawn[0].save(buffer, "PNG")
        return buffer.getvalue()


@contextmanager
def open_service(classifier: Classifier, cfg: DictConfig) -> Iterator[Service]:
    """A service that answers while the context is open.

    Raises:
        Exception: what prevents the network from running.
    """
    service = Service(classifier, cfg)
    service.network.start()
    try:
        yield service
    finally:
        service.close()
