"""The network of the server: one thread runs it on batches of the images that any number of requests submit.

The forward passes are those of `predict`: the same Lightning trainer, device, precision and Conv-BN fusion. There every
batch has `inference.batch_size` images, because the last digit of a logit may depend on the size of its batch. For a
single image that would be a waste. Before the first request, random images are therefore run in batches of 16, 8, 4, …
images too. The sizes that give the same bits as a full batch are used where fewer images wait. Larger batches are not
faster on every CPU: the largest one that is used is the largest of those that take the least time per image.
"""

import logging
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future

import torch
from omegaconf import DictConfig
from torch import Tensor

from sports_lightning.inference.out_of_memory import halve_batch_on_out_of_memory
from sports_lightning.inference.predictor import Forward, pad_batch, run_stream
from sports_lightning.models.classifier import Classifier

log = logging.getLogger(__name__)

_PROBES = 8  # images that are compared for each batch size, or as many as are in a batch
_TOLERANCE = 1.1  # of the time of an image, which a busy machine makes uncertain

Job = tuple[Tensor, "Future[Tensor]"]  # a preprocessed image and its outputs


class NetworkStopped(Exception):
    """The thread has ended, or its last batch has failed."""


class Network:
    """Runs a function of a classifier on images as they arrive.

    Args:
        function: of the classifier and a batch of images, to outputs (n, …).
        classifier: as `load_classifier` returns it.
        inference: `conf/inference/*.yaml`. Out of memory halves the batch size.

    Attributes:
        sizes: numbers of images in a batch that give the same bits, ascending; the last one is the full batch.
        largest: of these, that are run.
        images, batches: how many have been run.
    """

    def __init__(self, function: Forward, classifier: Classifier, inference: DictConfig) -> None:
        self.function, self.classifier, self.inference = function, classifier, inference
        self.sizes: list[int] = []
        self.largest = inference.batch_size
        self.images = self.batches = 0
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._running: list[Future[Tensor]] = []
        self._received: deque[Tensor] = deque()
        self._is_ready: Future[None] = Future()
        self._lock, self._has_ended = threading.Lock(), False
        self._thread = threading.Thread(target=self._run, name="network", daemon=True)

    def start(self) -> None:
        """Start the thread, and return when it can answer.

        Raises:
            Exception: what prevents the network from running.
        """
        self._thread.start()
        self._is_ready.result()

    def stop(self) -> None:
        """Answer what has been submitted, and end the thread."""
        self._jobs.put(None)
        self._thread.join()

    @property
    def is_running(self) -> bool:
        """Whether images are answered."""
        return self._is_ready.done() and not self._has_ended

    def submit(self, image: Tensor) -> "Future[Tensor]":
        """Queue a preprocessed image, uint8 (3, height, width); returns its future outputs (…), float32.

        An image whose future is canceled before its batch starts is not run.
        """
        outputs: Future[Tensor] = Future()
        with self._lock:
            if self._has_ended:
                outputs.set_exception(NetworkStopped("the network has stopped"))
            else:
                self._jobs.put((image, outputs))
        return outputs

    def _run(self) -> None:
        try:
            halve_batch_on_out_of_memory(self._stream, self.inference)
        except BaseException as error:
            if self._is_ready.done():
                log.exception("the network has stopped")
            else:
                self._is_ready.set_exception(error)
        finally:
            with self._lock:
                self._has_ended = True
            while not self._jobs.empty():
                if job := self._jobs.get():
                    self._running.append(job[1])
            self._fail_running()

    def _fail_running(self) -> None:
        for outputs in self._running:
            if not outputs.done():
                outputs.set_exception(NetworkStopped("the network has failed on these images"))
        self._running = []

    def _stream(self, inference: DictConfig) -> None:
        self._fail_running()  # of a batch that did not fit into memory
        self._received.clear()
        batches = _Endless(self._batches(inference))
        run_stream(self.function, self.classifier, batches, inference, self._received.append)

    def _batches(self, inference: DictConfig) -> Iterator[tuple[Tensor]]:
        yield from self._find_sizes(inference)
        if not self._is_ready.done():
            self._is_ready.set_result(None)
        while jobs := self._next_jobs():
            images, self._running = torch.stack([image for image, _ in jobs]), [outputs for _, outputs in jobs]
            yield (pad_batch(images, next(size for size in self.sizes if size >= len(jobs))),)
            self.images, self.batches = self.images + len(jobs), self.batches + 1
            for outputs, result in zip(self._running, self._received.popleft(), strict=False):  # it may be padded
                outputs.set_result(result)

    def _next_jobs(self) -> list[Job]:
        """Wait for an image, and take those that wait with it, up to the largest batch; none at the end."""
        jobs: list[Job] = []
        while len(jobs) < self.largest and not (jobs and self._jobs.empty()):
            job = self._jobs.get()
            if job is None:
                self._jobs.put(None)  # for the next call
                break
            if job[1].set_running_or_notify_cancel():
                jobs.append(job)
        return jobs

    def _find_sizes(self, inference: DictConfig) -> Iterator[tuple[Tensor]]:
        """Run random images in batches of each size; keeps those whose outputs have the bits of a full batch."""
        full = inference.batch_size
        images = torch.randint(
            256,
            (full, 3, *self.classifier.preprocessing.size),
            dtype=torch.uint8,
            generator=torch.Generator().manual_seed(0),
        )
        yield (images,)
        expected = self._received.popleft()
        seconds: dict[int, float] = {}  # of an image, by size of its batch
        powers = [2**power for power in range(full.bit_length()) if 2**power < full]
        for size in (full, *reversed([] if inference.compile else powers)):  # each size would be compiled
            is_equal, times = True, []
            for start in range(0, min(full - size + 1, max(size, _PROBES)), size):
                started = time.perf_counter()
                yield (images[start : start + size],)
                times.append((time.perf_counter() - started) / size)
                is_equal &= self._received.popleft().equal(expected[start : start + size])
            if not is_equal:
                break
            seconds[size] = min(times)
        self.sizes = sorted(seconds or [full])
        fastest = min(seconds.values(), default=0.0)
        self.largest = max((size for size in seconds if seconds[size] <= _TOLERANCE * fastest), default=full)


class _Endless:
    """Batches with a length, which Lightning needs (see `run_stream`)."""

    def __init__(self, batches: Iterator[tuple[Tensor]]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[tuple[Tensor]]:
        return self.batches

    def __len__(self) -> int:
        return sys.maxsize
