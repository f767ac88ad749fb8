"""`model_int8.onnx`: static quantization by ONNX Runtime, calibrated on training images.

Weights are int8 with a scale per output channel, activations uint8 with a scale per tensor. Preprocessing, softmax and
score stay in floating point. Products of such numbers may saturate on CPUs without VNNI instructions, which the
comparison with the checkpoint shows where the file is written.
"""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from sports_lightning.data.dataset_index import DatasetIndex
from sports_lightning.inference.export_info import ExportInfo
from sports_lightning.inference.exported import ExportedModel

CALIBRATION_IMAGES = 256
# With the activation functions, whose outputs have a smaller range than what goes into them (figures in docs/log).
_OPERATORS = ["Conv", "Gemm", "Clip", "Relu", "Add"]


def quantize(model: Any, info: ExportInfo, index: DatasetIndex) -> Any:
    """Quantize an ONNX model of a classifier.

    Args:
        model: `onnx.ModelProto` that takes images of any size.
        info: its metadata.
        index: with the split "train", of which some images are used.
    """
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    reader = _CalibrationImages(info, index)
    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, quantized = (Path(folder, f"{name}.onnx") for name in ("plain", "prepared", "quantized"))
        plain.write_bytes(model.SerializeToString())
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantize_static(
            prepared,
            quantized,
            reader,
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=_OPERATORS,
            nodes_to_exclude=_after_logits(onnx.load(prepared).graph),
            per_channel=True,
            weight_type=QuantType.QInt8,  # uint8 weights cost four fifths of the speed
            activation_type=QuantType.QUInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"OpTypesToExcludeOutputQuantization": ["Gemm"]},  # the logits stay float
        )
        return onnx.load(quantized)


def _after_logits(graph: Any) -> list[str]:
    """Names of the nodes that the logits do not depend on."""
    producers = {output: node for node in graph.node for output in node.output}
    needed: set[str] = set()
    waiting = [producers[graph.output[0].name].input[0]]  # of the softmax
    while waiting:
        node = producers.get(waiting.pop())
        if node is not None and node.name not in needed:
            needed.add(node.name)
            waiting += node.input
    return [node.name for node in graph.node if node.name not in needed]


class _CalibrationImages:
    """The images as onnxruntime's `CalibrationDataReader` gives them: {input: batch}, and then None."""

    def __init__(self, info: ExportInfo, index: DatasetIndex) -> None:
        split = index.splits["train"].spread(CALIBRATION_IMAGES)
        self.batches = ExportedModel(info, lambda images: (images, None)).batches(index.root, split, 16)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {"images": batch}
