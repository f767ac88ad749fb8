"""Undo an operation on a file, from any state that a killed process may have left.

A file is only removed where its content has been verified at its old place, under a name of its own.
"""

import base64
import os
from collections.abc import Callable

from sports_lightning.errors import WriteFailed
from sports_lightning.organize.file_operations import (
    COPY,
    HARDLINK,
    MOVE,
    SYMLINK,
    WRITE,
    Operation,
    are_hard_links,
    carry_out,
    content_digest,
    digest_of,
    is_one_place,
    remove_partial,
    write_content,
)


def take_back(operation: Operation) -> str:
    """Undo an operation in whatever state it is. Return why something was kept, or "".

    A target is only removed where its content has been verified at the source; one that has changed is kept.

    Raises:
        WriteFailed: no space or no permission.
    """
    try:
        for target in (operation.target, operation.source):
            if target:
                remove_partial(target)
        return _TAKE_BACK[operation.kind](operation)
    except OSError as error:
        raise WriteFailed(f"can't put back {operation.source}: {error.strerror}") from error


def _remove_copy(operation: Operation) -> str:
    if not os.path.lexists(operation.target):
        return ""
    if not os.path.isfile(operation.source) or os.path.islink(operation.source) or is_one_place(operation):
        return f"{operation.target}: its source {operation.source} is gone"
    if are_hard_links(operation):
        os.unlink(operation.target)
        return ""
    if digest_of(operation.target) != operation.digest:
        return f"{operation.target} has changed since"
    if digest_of(operation.source) != operation.digest:
        return f"{operation.target}: its source {operation.source} has changed since"
    os.unlink(operation.target)
    return ""


def _remove_link(operation: Operation) -> str:
    if not os.path.lexists(operation.target):
        return ""
    if not (os.path.islink(operation.target) and os.readlink(operation.target) == operation.source):
        return f"{operation.target} has changed since"
    os.unlink(operation.target)
    return ""


def _move_back(operation: Operation) -> str:
    has_source, has_target = os.path.lexists(operation.source), os.path.lexists(operation.target)
    if not has_target:
        return "" if has_source else f"{operation.source} is neither at its old nor at its new place"
    if has_source and os.path.islink(operation.source) and is_one_place(operation):
        os.unlink(operation.source)  # a link to the new place, put there by somebody since
    elif has_source and is_one_place(operation):
        return f"{operation.target}: its old folder is a link to its new one"
    elif has_source and are_hard_links(operation):
        os.unlink(operation.target)
        return ""
    if digest_of(operation.target) != operation.digest:
        return f"{operation.target} has changed since"
    if os.path.lexists(operation.source):
        if not os.path.isfile(operation.source) or digest_of(operation.source) != operation.digest:
            return f"{operation.target}: another file has taken its old place {operation.source}"
        os.unlink(operation.target)
        return ""
    status = os.stat(operation.target, follow_symlinks=False)
    back = Operation(MOVE, operation.target, operation.source, operation.digest, status.st_size, status.st_mtime_ns)
    os.makedirs(os.path.dirname(operation.source), exist_ok=True)
    carry_out(back)
    os.utime(operation.source, ns=(operation.mtime, operation.mtime))  # which another drive may have rounded
    return ""


def _remove_written(operation: Operation) -> str:
    if operation.original and not os.path.lexists(operation.source):
        content = base64.b64decode(operation.original)
        restored = Operation(
            WRITE, "", operation.source, content_digest(content), len(content), operation.mtime, operation.mode,
            operation.original,
        )  # fmt: skip
        os.makedirs(os.path.dirname(operation.source), exist_ok=True)
        write_content(restored)
    if not os.path.lexists(operation.target):
        return ""
    if digest_of(operation.target) != operation.digest:
        return f"{operation.target} has changed since"
    os.unlink(operation.target)
    return ""


_TAKE_BACK: dict[str, Callable[[Operation], str]] = {
    COPY: _remove_copy, MOVE: _move_back, HARDLINK: _remove_copy, SYMLINK: _remove_link, WRITE: _remove_written,
}  # fmt: skip
