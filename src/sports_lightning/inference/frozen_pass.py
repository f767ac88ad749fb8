"""How the pass through a frozen part runs: by PyTorch or by OpenVINO, and in which precision.

On a CPU, OpenVINO runs a frozen network up to four times as fast as PyTorch (docs/log/speed.md).
"""

import math
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from sports_lightning.errors import UserError
from sports_lightning.inference.devices import cpu_has_bfloat16
from sports_lightning.inference.frozen_part import FrozenPart
from sports_lightning.models.classifier import Classifier
from sports_lightning.models.pretrained import short_message
from sports_lightning.storage.openvino import import_openvino

_SETTING, _OTHERWISE = "finetune.engine=openvino", "or set finetune.engine=torch"
_NAMES = {"32-true": "f32", "bf16-mixed": "bf16"}  # of precisions in OpenVINO
_COMPARED = 4  # images of the first batch
_TOLERANCE = 1e-3  # of the outputs in float32, relative to their norm; without a fault it is 1e-7


@dataclass(frozen=True)
class FrozenPass:
    """How the outputs of a frozen part are computed.

    Attributes:
        engine: "torch" or "openvino".
        precision: Lightning's name.
    """

    engine: str = "torch"
    precision: str = "32-true"

    def __str__(self) -> str:
        return self.precision if self.engine == "torch" else f"{self.engine} {self.precision}"

    def settings(self, inference: DictConfig) -> DictConfig:
        """`conf/inference/*.yaml` with the settings of this pass."""
        chosen = {"precision": self.precision, "flip_tta": False}
        if self.engine == "openvino":
            chosen["compile"] = False  # torch.compile's
        merged = OmegaConf.merge(inference, chosen)
        assert isinstance(merged, DictConfig)
        return merged

    def function(self, part: FrozenPart) -> Callable[[Classifier, Tensor], Tensor]:
        """`part.run`, by this engine.

        Raises:
            UserError: OpenVINO cannot compute in this precision here.
        """
        return OpenVINOPass(part, self.precision) if self.engine == "openvino" else part.run


def openvino_computes(precision: str) -> bool:
    """Whether OpenVINO computes in this precision on this CPU."""
    return precision in _NAMES and (precision != "bf16-mixed" or cpu_has_bfloat16())


class OpenVINOPass:
    """The pass through a frozen part by OpenVINO: a function of a classifier and a batch, like `part.run`.

    The first batch converts the part for its shape, which takes some seconds, and is compared with PyTorch. All batches
    have this shape, and are of the same classifier.

    OpenVINO runs in a process of its own, which ends with this object: a training process that started other processes
    after OpenVINO had run in it has crashed (2026.4, Linux).

    Args:
        part: the frozen part.
        precision: "32-true" or "bf16-mixed".

    Raises:
        UserError: OpenVINO is missing, cannot compute in this precision here, cannot convert the part, or computes
            something else than PyTorch.
    """

    def __init__(self, part: FrozenPart, precision: str) -> None:
        if not openvino_computes(precision):
            raise UserError(
                f"{_SETTING} cannot compute in {precision} here: set trainer.precision=32-true, {_OTHERWISE}"
            )
        self.part, self.precision = part, precision
        self._process: _Process | None = None

    def __call__(self, classifier: Classifier, images: Tensor) -> Tensor:
        """uint8 (n, 3, height, width) to the outputs of the part, float32 (n, …)."""
        if self._process is None:
            self._process = _start(self.part, classifier, images, _NAMES[self.precision])
            self._compare(classifier, images)
        return self._process.run(images)

    def _compare(self, classifier: Classifier, images: Tensor) -> None:
        """Compare some outputs with PyTorch's; in bfloat16 their error may be twice that of PyTorch."""
        assert self._process
        found, some = self._process.run(images)[:_COMPARED], images[:_COMPARED]
        with torch.autocast("cpu", enabled=False):
            expected = self.part.run(classifier, some)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.precision == "bf16-mixed"):
            rounded = self.part.run(classifier, some).float()
        allowed = 2 * (rounded - expected).norm() + _TOLERANCE * expected.norm()
        if not (found - expected).norm() <= allowed:
            raise UserError(f"{_SETTING} computes other outputs of this network than PyTorch; {_OTHERWISE}")


class _Process:
    """A process that runs an OpenVINO model.

    Args:
        model: `openvino.Model` with static shapes.
        precision: OpenVINO's name.
    """

    def __init__(self, model: Any, precision: str) -> None:
        self.shape = tuple(model.output(0).shape)
        folder = tempfile.TemporaryDirectory()
        file, self.errors = Path(folder.name, "model.xml"), Path(folder.name, "errors")
        require_openvino().save_model(model, file, compress_to_fp16=False)
        arguments = [str(file), precision, str(torch.get_num_threads())]
        command = [sys.executable, "-m", f"{__package__}.openvino_process", *arguments]
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
        weakref.finalize(self, _end, self.process, folder)

    def run(self, images: Tensor) -> Tensor:
        """The outputs of a batch."""
        assert self.process.stdin
        assert self.process.stdout
        size = 4 * math.prod(self.shape)
        try:
            self.process.stdin.write(images.contiguous().numpy().data)
            self.process.stdin.flush()
            answer = self.process.stdout.read(size)
        except OSError:  # the process has ended
            answer = b""
        if len(answer) < size:
            last = (self.errors.read_text(errors="replace").strip().splitlines() or ["it ended"])[-1]
            raise UserError(f"{_SETTING} cannot run this network: {last}; {_OTHERWISE}")
        return torch.from_numpy(np.frombuffer(bytearray(answer), np.float32).reshape(self.shape))


def _end(process: subprocess.Popen[bytes], folder: "tempfile.TemporaryDirectory[str]") -> None:
    process.kill()
    process.communicate()
    folder.cleanup()


class _Traceable(nn.Module):
    """The pass as a module, as torch.export takes it."""

    def __init__(self, part: FrozenPart, classifier: Classifier) -> None:
        super().__init__()
        self.part, self.classifier = part, classifier

    def forward(self, images: Tensor) -> Tensor:
        return self.part.traceable(self.classifier, images)


_converted: weakref.WeakKeyDictionary[Classifier, dict[Any, Any]] = weakref.WeakKeyDictionary()  # by part and shape


def _start(part: FrozenPart, classifier: Classifier, images: Tensor, precision: str) -> _Process:
    """A process for the pass of batches of this shape."""
    openvino = require_openvino()
    models = _converted.setdefault(classifier, {})
    key = part, images.shape
    try:
        if key not in models:
            # Not in inference mode, and not in autocast: the precision is OpenVINO's business.
            with torch.inference_mode(False), torch.no_grad(), torch.autocast("cpu", enabled=False):
                program = torch.export.export(_Traceable(part, classifier), (images.clone(),))
                models[key] = openvino.convert_model(program)
            models[key].reshape(list(images.shape))
        return _Process(models[key], precision)
    except Exception as error:  # torch.export, OpenVINO and the code of a model may raise anything
        raise UserError(f"{_SETTING} cannot run this network: {short_message(error)}; {_OTHERWISE}") from error


def require_openvino() -> Any:
    """The module `openvino`.

    Raises:
        UserError: it is not installed.
    """
    return import_openvino(f"{_SETTING} needs openvino")
