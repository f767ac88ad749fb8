"""`openvino/model.xml` and `model.bin`: the classifier as OpenVINO's intermediate representation."""

import tempfile
from pathlib import Path
from typing import Any

from sports_lightning.inference.export_info import KEY, ExportInfo
from sports_lightning.storage.files import write_bytes
from sports_lightning.storage.openvino import import_openvino


def write_openvino(model: Any, info: ExportInfo, path: Path) -> None:
    """Convert an ONNX model, and write it in float32 with its metadata.

    Args:
        model: `onnx.ModelProto`.
        info: its metadata.
        path: of the .xml file; the weights are in a .bin file next to it.
    """
    openvino = import_openvino("format=openvino needs openvino")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "model.onnx"), Path(folder, "model.xml")
        source.write_bytes(model.SerializeToString())
        converted = openvino.convert_model(source)
        converted.set_rt_info(info.to_json(), [KEY])
        openvino.save_model(converted, target, compress_to_fp16=False)
        path.parent.mkdir(parents=True, exist_ok=True)
        for suffix in (".bin", ".xml"):  # the one that is opened last
            write_bytes(path.with_suffix(suffix), target.with_suffix(suffix).read_bytes())
