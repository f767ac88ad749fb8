"""The import of OpenVINO, without its telemetry."""

import sys
from typing import Any

from sports_lightning.errors import import_extra


def import_openvino(need: str) -> Any:
    """The module `openvino`, which reports nothing to its makers.

    At every conversion, `openvino_telemetry` would fork a process that sends statistics unless the user refuses.
    OpenVINO does without that package if it cannot be imported.

    Args:
        need: see `import_extra`.

    Raises:
        UserError: OpenVINO is not installed.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    return import_extra("openvino", need, "openvino")
