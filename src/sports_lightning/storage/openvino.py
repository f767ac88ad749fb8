"""The import of OpenVINO, without its telemetry."""

import sys
from typing import Any


def import_openvino() -> Any:
    """The module `openvino`, which reports nothing to its makers.

    At every conversion, `openvino_telemetry` would fork a process that sends statistics unless the user refuses.
    OpenVINO does without that package if it cannot be imported.

    Raises:
        ModuleNotFoundError: OpenVINO is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino
