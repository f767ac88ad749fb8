"""Smaller inference batches if the configured ones do not fit into memory."""

import logging
from collections.abc import Callable
from typing import Any, TypeVar

from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.utilities.memory import garbage_collection_cuda, is_oom_error

from sports_lightning.errors import UserError

log = logging.getLogger(__name__)

Result = TypeVar("Result")


def halve_batch_on_out_of_memory(
    compute: Callable[[DictConfig], Result], inference: DictConfig
) -> tuple[Result, DictConfig]:
    """Call `compute(inference)`, with half the batch size after each out-of-memory error of torch, and log that.

    Args:
        compute: may be called several times.
        inference: `conf/inference/*.yaml`; it is not modified.

    Returns:
        The result, and the settings with which it was computed.

    Raises:
        UserError: not even one image fits into memory.
    """
    while True:
        try:
            return compute(inference), inference
        except RuntimeError as error:
            if not is_oom_error(error):
                raise
            if inference.batch_size == 1:
                raise UserError(
                    "out of memory with one image at a time: free memory, or use a smaller model"
                ) from error
        garbage_collection_cuda()
        smaller = inference.batch_size // 2
        log.warning("out of memory with inference.batch_size=%d: continuing with %d", inference.batch_size, smaller)
        changed: Any = OmegaConf.merge(inference, {"batch_size": smaller})
        inference = changed
