"""The process in which OpenVINO runs a model: batches arrive on stdin and outputs leave on stdout, as plain bytes.

python -m sports_lightning.inference.openvino_process MODEL.xml PRECISION THREADS
"""

import math
import sys

from sports_lightning.runs.signals import ignore_signals


def main() -> None:
    """Answer every batch of uint8 values with the model's first output in float32, until stdin is closed."""
    ignore_signals(0)  # they are for the parent process, which closes stdin at its end
    import numpy as np
    import openvino

    model, precision, threads = sys.argv[1:]
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": int(threads)}
    compiled = openvino.compile_model(model, "CPU", settings)
    shape = tuple(compiled.input(0).shape)
    while batch := sys.stdin.buffer.read(math.prod(shape)):
        outputs = compiled(np.frombuffer(batch, np.uint8).reshape(shape))[0]
        sys.stdout.buffer.write(np.ascontiguousarray(outputs, np.float32).data)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
