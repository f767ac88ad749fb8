"""`journal.jsonl`: everything that an application will do, on disk before the first file is touched."""

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from sports_lightning.errors import UserError
from sports_lightning.organize.file_operations import MOVE, Operation
from sports_lightning.storage.files import DAMAGED, write_text

FILE = "journal.jsonl"
UNDONE = "undone"  # a file beside it, once everything is put back


@dataclass(frozen=True)
class Journal:
    """The operations of one application.

    Attributes:
        to: the folder that the files are sorted into.
        folders: the folders that are created for them, parents first.
        mtimes: modification times of the existing folders whose entries change, in nanoseconds.
        operations: in the order in which they are carried out.
    """

    to: str
    folders: list[str]
    mtimes: dict[str, int]
    operations: list[Operation]

    @classmethod
    def of(cls, to: Path, operations: Sequence[Operation]) -> "Journal":
        """The journal of operations that have not begun."""
        parents = [os.path.dirname(operation.target) for operation in operations]
        changed = {os.path.dirname(operation.source) for operation in operations if _removes_source(operation)}
        missing: dict[str, None] = {}
        for folder in dict.fromkeys([str(to), *parents]):
            new = []
            while not os.path.isdir(folder):
                new.append(folder)
                folder = os.path.dirname(folder)
            missing |= dict.fromkeys(reversed(new))
            changed.add(folder)
        return cls(
            str(to), list(missing), {folder: os.stat(folder).st_mtime_ns for folder in changed}, list(operations)
        )

    def write(self, folder: Path) -> None:
        """Write `journal.jsonl` into a run folder, and wait until it is on disk."""
        head = {"to": self.to, "folders": self.folders, "mtimes": self.mtimes}
        lines = [json.dumps(head), *(json.dumps(asdict(operation)) for operation in self.operations)]
        write_text(folder / FILE, "".join(f"{line}\n" for line in lines))

    @classmethod
    def read(cls, folder: Path) -> "Journal":
        """The journal of a run folder.

        Raises:
            UserError: there is none, or it is damaged.
        """
        if not (folder / FILE).is_file():
            raise UserError(
                f"undo={folder} holds no {FILE}: pass the run folder of organize that applied a plan; one "
                "that was not applied needs no undo"
            )
        try:
            head, *lines = map(json.loads, (folder / FILE).read_text(encoding="utf-8").splitlines())
            return cls(**head, operations=[Operation(**line) for line in lines])
        except DAMAGED as error:
            raise UserError(f"{folder / FILE} is damaged") from error


def _removes_source(operation: Operation) -> bool:
    return operation.kind == MOVE or bool(operation.original)
