"""Reads the `.wandb` file of an offline Weights & Biases run: protocol buffers in a LevelDB log."""

import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto import wandb_internal_pb2

_BLOCK, _HEADER = 32768, 7


@dataclass
class OfflineRun:
    """The content of a run that the server would show.

    Attributes:
        id, group, tags, job_type: as passed to `wandb.init`.
        config: the nested config.
        summary: the last value of each metric, by name.
        history: one row per step.
        artifacts: {type: names}.
    """

    id: str = ""
    group: str = ""
    job_type: str = ""
    tags: list[str] = field(default_factory=list)
    config: dict[str, Any] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    artifacts: dict[str, list[str]] = field(default_factory=dict)
    summarised_by: dict[str, str] = field(default_factory=dict)


def read_offline_run(folder: Path) -> OfflineRun:
    """The run in an `offline-run-…` folder."""
    (file,) = folder.glob("*.wandb")
    found = OfflineRun()
    for content in _records(file.read_bytes()):
        record = wandb_internal_pb2.Record.FromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            found.id, found.group, found.job_type = record.run.run_id, record.run.run_group, record.run.job_type
            found.tags = list(record.run.tags)
            found.config |= _values(record.run.config.update)
        elif kind == "config":
            found.config |= _values(record.config.update)
        elif kind == "summary":
            found.summary |= _values(record.summary.update)
        elif kind == "history":
            found.history.append(_values(record.history.item))
        elif kind == "metric" and record.metric.name:
            chosen = record.metric.summary
            found.summarised_by[record.metric.name] = "max" if chosen.max else "min" if chosen.min else ""
        elif kind in ("artifact", "request") and (record.artifact.name or record.request.log_artifact.artifact.name):
            artifact = record.artifact if record.artifact.name else record.request.log_artifact.artifact
            found.artifacts.setdefault(artifact.type, []).append(artifact.name)
    return found


def _values(items: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}


def _records(data: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log after its 7 bytes of file header; a record may span several blocks."""
    position, whole = 7, b""
    while position + _HEADER <= len(data):
        left = _BLOCK - position % _BLOCK
        if left < _HEADER:  # padding
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + _HEADER])
        whole += data[position + _HEADER : position + _HEADER + length]
        position += _HEADER + length
        if kind in (1, 4):  # whole, or the last part
            yield whole
            whole = b""
