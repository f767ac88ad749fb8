"""Combinations of settings that cannot work, of the commands that use a trained checkpoint."""

from ipaddress import ip_address

from sports_lightning.config.rule import Rule, required
from sports_lightning.config.rules import IN_STATED_PRECISION

CHECKPOINT = (required("ckpt_path", "RUN_FOLDER/checkpoints/best.ckpt"),)

AVERAGE = (
    required("ckpt_path", "[RUN1,RUN2]"),
    IN_STATED_PRECISION,
    Rule(
        ("ckpt_path",), lambda paths: paths is not None and len(paths) < 2, "ckpt_path names one run: pass two or more"
    ),
    Rule(
        ("method", "ckpt_path"),
        lambda method, paths: method == "path" and paths is not None and len(paths) != 2,
        "method=path is between two checkpoints: pass [RUN1,RUN2], or method=greedy",
    ),
)

EXPORT = (
    *CHECKPOINT,
    Rule(("format", "int8"), lambda formats, int8: not formats and not int8, "format={0} is empty: pass format=[onnx]"),
    Rule(
        ("ckpt_path",),
        lambda path: path is not None and str(path).lower().endswith((".onnx", ".xml")),
        "ckpt_path={0} is exported already: pass the checkpoint",
    ),
    Rule(
        ("inference.precision",),
        lambda precision: str(precision) not in ("32", "32-true"),
        "inference.precision={0}: exported files are compared with the checkpoint in 32-true",
    ),
)

DECISIONS = (
    Rule(
        ("reject",),
        lambda share: share is not None and share >= 1,
        "reject={0} must be between 0 and 1: the share of known images that may be rejected, such as 0.05",
    ),
    Rule(
        ("coverage",),
        lambda share: share is not None and share >= 1,
        "coverage={0} must be between 0 and 1: the share of images whose set contains their class, such as 0.95",
    ),
)


def _is_no_address(host: str) -> bool:
    try:
        ip_address(host)
    except ValueError:
        return host != "localhost"
    return False


PREDICT = (
    Rule(
        ("video.reject",),
        lambda score: score is not None and score >= 0.36,
        "video.reject={0} must be below 0.36: it is a rejection score, such as 0.05",
    ),
    Rule(
        ("resume",),
        lambda folder: folder == "auto",
        "resume={0} is for train: pass the folder of the interrupted prediction, such as outputs/predict/RUN",
    ),
)

SERVE = (
    IN_STATED_PRECISION,
    Rule(
        ("host",),
        _is_no_address,
        "host={0} is not an IP address: 127.0.0.1 is this machine only, 0.0.0.0 any network that it is in",
    ),
    Rule(("port",), lambda port: port > 65535, "port={0} must be 65535 or less"),
)
