"""The keys of caches change with the code that computes the cached value, without a number to be increased by hand."""

import sys
from importlib import metadata
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from PIL import Image

from sports_lightning.data.dataset_index import Split
from sports_lightning.data.decoded_cache import open_images
from sports_lightning.data.file_hashes import FileCheck, check_files
from sports_lightning.inference.training_features import _user_code
from sports_lightning.storage import code_digest as code
from sports_lightning.storage import disk_cache
from sports_lightning.storage.code_digest import code_digest, foreign_code
from sports_lightning.storage.disk_cache import cache_key

PACKAGE = {
    "__init__": "from sports_lightning.api import other",
    "data/decode": "import numpy, sports_lightning.errors\nfrom sports_lightning.data import modes",
    "data/modes": "def f():\n    from sports_lightning.models import blocks\nimport sports_lightning.storage.files",
    "data/other": "",
    "models/blocks": "",
    "storage/__init__": "",
    "storage/files": "x = 1",
    "errors": "",
    "api": "",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small package in place of this one."""
    for name, text in PACKAGE.items():
        (tmp_path / "package" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "package" / f"{name}.py").write_text(text)
    monkeypatch.setattr(code, "_FOLDER", tmp_path / "package")
    monkeypatch.setattr(code, "code_digest", code_digest.__wrapped__)
    return tmp_path / "package"


@pytest.mark.parametrize("changed", PACKAGE)
def test_the_digest_depends_on_all_that_a_module_imports(package: Path, changed: str) -> None:
    before = code.code_digest("sports_lightning.data.decode")
    (package / f"{changed}.py").write_text(PACKAGE[changed] + "\ny = 2")
    computes = changed in ("data/decode", "data/modes", "models/blocks")
    assert (code.code_digest("sports_lightning.data.decode") != before) == computes


def test_the_keys_of_caches_depend_on_the_modules_that_compute_and_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    imports = code._imports
    monkeypatch.setattr(code, "_imports", lambda file, module: read.append(file.stem) or imports(file, module))
    code_digest.__wrapped__("sports_lightning.inference.feature_cache")
    assert {
        "decode",
        "modes",
        "color_profiles",
        "formats",
        "augment",
        "preprocessing",
        "classifier",
        "frozen_part",
    } <= set(read)
    assert not {"console", "signals", "errors", "locks", "files", "disk_cache", "parallel"} & set(read)


def test_changed_code_decodes_and_checks_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "1.png")
    split = Split(["1.png"], [0], ["a"])
    folders = [open_images(tmp_path, split, 8, "disk", tmp_path / "cache").folder]  # type: ignore[union-attr]
    folders.append(open_images(tmp_path, split, 8, "disk", tmp_path / "cache").folder)  # type: ignore[union-attr]
    monkeypatch.setattr("time.time_ns", lambda: 2**62)
    check_files(tmp_path, ["1.png"], tmp_path / "cache")
    monkeypatch.setattr("sports_lightning.storage.disk_cache.code_digest", lambda module: f"new {module}")
    folders.append(open_images(tmp_path, split, 8, "disk", tmp_path / "cache").folder)  # type: ignore[union-attr]
    assert len(set(folders)) == 2
    opened = []
    monkeypatch.setattr(
        "sports_lightning.data.file_hashes._read", lambda path: opened.append(path) or FileCheck("", "read")
    )
    check_files(tmp_path, ["1.png"], tmp_path / "cache")
    assert not opened
    monkeypatch.setattr("sports_lightning.data.file_hashes._code", lambda: "new")
    check_files(tmp_path, ["1.png"], tmp_path / "cache")
    assert opened


def test_a_key_depends_on_module_and_values() -> None:
    keys = {cache_key(f"sports_lightning.{name}", 1) for name in ("data.decode", "data.augment")}
    assert len(keys | {cache_key("sports_lightning.data.decode", 2)}) == 3


def test_modules_of_users_are_part_of_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_network.py").write_text("x = 1")
    monkeypatch.syspath_prepend(tmp_path)
    names = ["my_network", "torch.nn.modules.linear", "timm.models.resnet", "sports_lightning.models.scratch_cnn"]
    first = foreign_code([*names, "builtins", "no_such_module"])
    assert list(first) == ["my_network"]
    (tmp_path / "my_network.py").write_text("x = 2")
    assert foreign_code(names) != first
    assert sys.modules.get("my_network") is None


def test_a_method_of_a_user_s_class_is_part_of_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_augment.py").write_text("x = 1")
    monkeypatch.syspath_prepend(tmp_path)
    assert list(_user_code({"crop": {"_target_": "my_augment.Outer.Inner.make"}})) == ["my_augment"]


def test_what_a_user_s_module_imports_is_part_of_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_package/deep").mkdir(parents=True)
    for file, content in {
        "__init__.py": "raise RuntimeError('imported')",
        "network.py": "from .deep import *\nimport numpy as np\ndef f():\n    from my_package import lazy",
        "deep/__init__.py": "from ..layers import Layer",
        "layers.py": "import my_package.network  # a cycle",
        "lazy.py": "this is no Python",
        "other.py": "",
    }.items():
        (tmp_path / "my_package" / file).write_text(content)
    monkeypatch.syspath_prepend(tmp_path)
    first = foreign_code(["my_package.network"])
    own = {"my_package", *(f"my_package.{name}" for name in ("network", "deep", "layers", "lazy"))}
    assert first.keys() == own | {"numpy"}
    assert first["numpy"] == f"numpy {metadata.version('numpy')}", "a library counts with its version"
    (tmp_path / "my_package/layers.py").write_text("import my_package.network")
    assert {name for name, digest in foreign_code(["my_package.network"]).items() if first[name] != digest} == {
        "my_package.layers"
    }
    assert "my_package" not in sys.modules


def test_nested_transforms_of_users_are_part_of_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_blur.py").write_text("x = 1")
    monkeypatch.syspath_prepend(tmp_path)
    nested = {"_target_": "torchvision.transforms.v2.RandomApply", "transforms": [{"_target_": "my_blur.Blur"}]}
    first = _user_code({"crop": None, "some": nested})
    assert list(first) == ["my_blur"]
    (tmp_path / "my_blur.py").write_text("x = 2")
    assert _user_code({"crop": None, "some": nested}) != first


def test_the_keys_of_caches_depend_on_the_library_for_heic_if_it_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    before = cache_key(disk_cache.__name__)
    assert "pillow-heif" in disk_cache.library_versions()

    def version(name: str) -> str:
        if name == "pillow-heif":
            raise PackageNotFoundError
        return metadata.version(name)

    monkeypatch.setattr(disk_cache, "version", version)
    assert "pillow-heif" not in disk_cache.library_versions()
    assert cache_key(disk_cache.__name__) != before
