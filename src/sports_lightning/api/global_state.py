"""The global state of the caller's process, which training changes."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image

from sports_lightning.cli.process_setup import variables_restored
from sports_lightning.data.formats import limit_pixels
from sports_lightning.runs.process import RANK_VARIABLES, remove_stray_ranks
from sports_lightning.train.loggers import CLIENT_VARIABLES

# Set by Lightning: by seed_everything, and for deterministic algorithms.
_SEED_VARIABLES = ("PL_GLOBAL_SEED", "PL_SEED_WORKERS", "CUBLAS_WORKSPACE_CONFIG")


@contextmanager
def global_state_restored() -> Iterator[None]:
    """Restore random number generators, settings of torch and Pillow, the selected GPU and environment variables.

    Also after an error. The variables are those of Lightning and of dashboards.

    Lightning's `isolate_rng` restores nothing after an error.
    """
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    has_gpus = torch.cuda.is_available()
    cuda_states, gpu = (torch.cuda.get_rng_state_all(), torch.cuda.current_device()) if has_gpus else ([], None)
    deterministic = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    fill = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    benchmark, matmul = torch.backends.cudnn.benchmark, torch.get_float32_matmul_precision()
    most_pixels = Image.MAX_IMAGE_PIXELS
    try:
        with variables_restored(*_SEED_VARIABLES, *RANK_VARIABLES, *CLIENT_VARIABLES):
            remove_stray_ranks()
            yield
    finally:
        limit_pixels(most_pixels)
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        if gpu is not None:
            torch.cuda.set_rng_state_all(cuda_states)
            torch.cuda.set_device(gpu)
        torch.use_deterministic_algorithms(deterministic, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = fill  # type: ignore[attr-defined]
        torch.backends.cudnn.benchmark = benchmark
        torch.set_float32_matmul_precision(matmul)
