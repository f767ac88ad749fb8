"""Which error a command reports: the one that happened, not one that was being handled, nor a guess about a file."""

import errno
from pathlib import Path

import pytest

from commands import try_command
from conftest import assert_error_line
from sports_lightning.cli.error_messages import one_line
from sports_lightning.errors import UserError
from sports_lightning.runs.checkpoint_files import load_checkpoint
from sports_lightning.storage.disk_cache import cached_folder
from sports_lightning.storage.files import checkpoint_file


def test_a_bug_while_a_user_error_is_handled_is_no_user_error() -> None:
    errors = []
    for cause in (None, UserError("no image")):
        try:
            try:
                raise UserError("no image")
            except UserError:
                raise ValueError("a bug") from cause
        except ValueError as error:
            error.__suppress_context__ = False
            errors.append(error)
    assert [one_line(error, "train") for error in errors] == [None, "no image"]


def test_an_unreadable_input_is_no_unwritable_cache(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="absent"):
        cached_folder(tmp_path / "cache", "kind", "key", lambda _: print((tmp_path / "absent").read_bytes()))
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"can't write .*data.cache_dir"):
        cached_folder(tmp_path / "file", "kind", "key", lambda _: None)


def test_an_unwritable_cache_is_named_whether_its_path_is_relative_or_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder.absolute() / "pixels"))

    monkeypatch.chdir(tmp_path)
    for cache_dir in (Path("cache"), Path("../cache"), tmp_path / "cache"):
        with pytest.raises(UserError, match=r"No space left .*data.cache_dir"):
            cached_folder(cache_dir, "kind", "key", fail)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("mine/conf/a.yaml", "can't read mine/conf/a.yaml: Permission denied\n"),
        ("run/.hydra/config.yaml", "can't write"),
    ],
)
def test_an_error_of_a_file_says_what_was_done_with_it(
    file: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied", file)

    monkeypatch.setattr("hydra.main", lambda **_: lambda _: fail)
    assert_error_line(try_command("train", "data=sample"), message)


def test_an_inaccessible_checkpoint_is_named_as_the_user_did(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = "x" * 300  # no system call accepts it, as without permission for its folder
    with pytest.raises(OSError, match="too long") as error:
        checkpoint_file(path)
    assert str(error.value.filename) == path

    def fail(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "best.ckpt")

    monkeypatch.setattr("torch.load", fail)
    with pytest.raises(PermissionError):  # the file is not said to be damaged
        load_checkpoint(tmp_path / "best.ckpt")
