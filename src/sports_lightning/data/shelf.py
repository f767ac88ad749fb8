"""What is remembered of folders of pictures from one command to the next, in a SQLite file of the cache."""

import json
import logging
import os
import sqlite3
from pathlib import Path
from types import TracebackType
from typing import Any

log = logging.getLogger(__name__)

# What was written within this time of being read could change again without its times telling: it is not remembered.
RACY_NS = 2_000_000_000


class Shelf:
    """Values that JSON can say, by folder. What is put there is written at the end of the `with` statement.

    A file that is not there, damaged or not to be written costs the next command some seconds, and changes nothing.

    Args:
        cache_dir: where the file is; None remembers nothing.
        name: of the file, without `.sqlite`.
    """

    def __init__(self, cache_dir: Path | None, name: str) -> None:
        self.file = cache_dir / f"{name}.sqlite" if cache_dir else None
        self._kept: sqlite3.Connection | None = None
        self._new: dict[bytes, str] = {}

    def __enter__(self) -> "Shelf":
        if self.file and self.file.exists():
            self._kept = sqlite3.connect(f"{self.file.absolute().as_uri()}?mode=ro", uri=True, timeout=60)
        return self

    def get(self, folder: Path) -> Any | None:
        """What was put there for `folder`, by an earlier command."""
        if self._kept is None:
            return None
        try:
            row = self._kept.execute("SELECT content FROM folders WHERE folder = ?", [_key(folder)]).fetchone()
            return json.loads(row[0]) if row else None
        except sqlite3.OperationalError:  # another process is about to write the first of it
            return None
        except (sqlite3.DatabaseError, ValueError, TypeError):
            self._close()
            assert self.file
            self.file.unlink(missing_ok=True)
            return None

    def put(self, folder: Path, content: Any) -> None:
        """Remember `content` for `folder`, in place of what was there."""
        if self.file:
            self._new[_key(folder)] = json.dumps(content)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._close()
        if error or not self._new or not self.file:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with sqlite3.connect(self.file, timeout=60) as kept:
                kept.execute("CREATE TABLE IF NOT EXISTS folders (folder BLOB PRIMARY KEY, content TEXT)")
                kept.executemany("INSERT OR REPLACE INTO folders VALUES (?, ?)", self._new.items())
            kept.close()
        except (OSError, sqlite3.Error) as problem:
            log.warning("can't write %s: %s; data.cache_dir=FOLDER sets another place", self.file.parent, problem)

    def _close(self) -> None:
        if self._kept is not None:
            self._kept.close()
            self._kept = None


def _key(folder: Path) -> bytes:
    return os.fsencode(folder.resolve())
