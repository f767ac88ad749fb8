"""User errors: one line on stderr that names culprit and remedy, exit status 1, and no files left."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

from commands import run_command, try_command
from conftest import FAST, assert_error_line
from processes import Result
from sports_lightning.errors import UserError

TRAIN = [*FAST, "logger=csv"]


@pytest.fixture
def tree(few: Path, tmp_path: Path) -> Path:
    """A small dataset that a test may damage: 3 images per class and split."""
    root = tmp_path / "tree"
    for image in few.glob("*/*/00[123].jpg"):
        target = root / image.relative_to(few)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, target)
    return root


def assert_one_line(result: Result, tmp_path: Path, *parts: str) -> None:
    assert_error_line(result, *parts)
    assert not list(tmp_path.rglob("outputs/*/*")), "nothing half-written"


def test_hydra_full_error_keeps_the_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    with pytest.raises(UserError, match=r"data\.root=nowhere is not a folder"):
        try_command("train", "data=folder", "data.root=nowhere")
    assert not list(tmp_path.rglob("outputs/*/*"))


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["optimizer.lrr=1"], ["'optimizer.lrr'. Did you mean optimizer.lr?"]),
        (["optimizer.foo=1"], ["+optimizer.foo=1. See --help for all keys."]),
        (["optimizer.weight_dcay=1"], ["Did you mean optimizer.weight_decay?"]),
        (["model=null"], ["Got NoneType", "name one of the group's choices"]),
        (["debug=true"], ["Got bool", "HYDRA_FULL_ERROR=1"]),
        (["optimizer=sdg"], ["optimizer/sdg", "Did you mean optimizer=sgd?"]),
        (["optimizer.arguments={eps: 1}"], ["+optimizer.arguments.KEY=VALUE"]),
        (["augment.progressive_sizes=[64]"], ["augment.progressive_sizes=[64]", "[[0,64],[5,96]]"]),
        (["augment.progressive_sizes=64"], ["augment.progressive_sizes=64", "[[0,64],[5,96]]"]),
        (["augment.progressive_sizes=[[0,64]]", "model=simple_cnn"], ["augment.progressive_sizes", "simple_cnn"]),
        (["data.cache_dir=null"], ["data.cache_dir"]),
        (["hydra.output_subdir=null"], ["hydra.output_subdir"]),
        (["data.cache=fast"], ["data.cache=fast", "ram"]),
        (["augment.fixed_augmentations=0"], ["augment.fixed_augmentations=0"]),
        (["trainer.max_epoch=1"], ["Did you mean trainer.max_epochs?"]),
        (["model=resnet18"], ["Did you mean model=resnet50?", "model=timm model.name=resnet18"]),
        (["model=a/b.yaml"], ["--config-dir=FOLDER"]),
        (["+model=resnet50"], ["write model=resnet50, without +"]),
        (["model=resnet50,scratch_cnn"], ["has several values: add -m", "model=[resnet50,scratch_cnn]"]),
        (["optimizer.arguments.eps=1"], ["+optimizer.arguments.eps=1"]),
        (["lr=0.1"], ["Did you mean optimizer.lr?"]),
        (["batch_size=8"], ["Did you mean data.batch_size or inference.batch_size?"]),
        (["epochs=5"], ["Did you mean trainer.max_epochs?"]),
        (["callbacks.early_stopping.patience=1"], ["Choose callbacks=[default,early_stopping] for it."]),
        (["logger=csv", "logger.wandb.project=x"], ["Choose logger=wandb for it."]),
        (["~sed"], ["Did you mean seed?"]),
        (["data=/nowhere/pics"], ["data=folder data.root=/nowhere/pics"]),
        (["optimizer.lr=fast"], ["optimizer.lr=fast", "number above 0"]),
        (["data.batch_size=0"], ["data.batch_size=0", "1 or more"]),
        (["data.num_workers=-1"], ["data.num_workers=-1"]),
        (["trainer.max_epochs=0"], ["trainer.max_epochs=0"]),
        (["seed=-3"], ["seed=-3"]),
        (["data=folder"], ["data.root is not set", "data.root=FOLDER"]),
        (["data=folder", "data.root=nowhere"], ["data.root=nowhere", "not a folder"]),
        (["data=sports100"], ["data/sports100", "data.download=true", "data=sample"]),
        (["model=timm", "model.name=resnet5"], ["model.name=resnet5", "not known to timm"]),
        (["model=resnet50", "model.weights=none.pth"], ["model.weights=none.pth", "not a file"]),
        (["optimizer.name=adamm"], ["optimizer=adamm"]),
        (["scheduler.name=cosin"], ["scheduler=cosin"]),
        (["finetune=last_stages", "finetune.stages=50"], ["finetune.stages=50"]),
        (
            ["model=timm", "model.name=poolformer_s12", "model.pretrained=false", "finetune=last_stages"],
            ["the stages of"],
        ),
        (["refit=0"], ["refit=0", "number above 0"]),
        (["model=timm", "model.name=levit_128s", "model.pretrained=false", "refit=1"], ["refit", "levit_128s"]),
        (["~callbacks.best"], ["callbacks=[default,"]),
        (["model.arguments={foo: 1}"], ["foo"]),
        (["trainer.accelerator=gpuu"], ["gpuu"]),
        (["trainer.strategy=fsdp", "finetune=head"], ["trainer.strategy=fsdp", "finetune=full"]),
        (["trainer.strategy=fsdp", "data.batch_size=auto"], ["trainer.strategy=fsdp", "set a number"]),
        (["trainer.strategy=fsdp", "trainer.sync_batchnorm=true"], ["sync_batchnorm", "trainer.strategy=ddp"]),
        (["trainer.strategy=fsdp", "callbacks=[default,ema]"], ["ema", "trainer.strategy=ddp"]),
        (["inference.accelerator=gpuu"], ["inference.accelerator=gpuu"]),
        (["finetune.mode=heads"], ["finetune.mode=heads", "full, head"]),
        (["loss.class_weights=equal"], ["loss.class_weights=equal", "balanced"]),
        (["finetune=gradual", "finetune.epochs_per_stage=0"], ["finetune.epochs_per_stage=0"]),
        (["trainer.val_check_interval=1000"], ["batches of an epoch", "trainer.check_val_every_n_epoch=null"]),
        (["finetune=last_stages", "finetune.stages=all"], ["finetune.stages=all", "whole number"]),
        (["data=folder", "data.root=2024"], ["data.root=2024 is not a folder"]),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_impossible_settings_of_train_are_refused(
    tree: Path, tmp_path: Path, arguments: list[str], parts: list[str]
) -> None:
    data = [] if any(a.startswith("data=") for a in arguments) else [f"data.root={tree}"]
    assert_one_line(try_command("train", *TRAIN, *data, *arguments), tmp_path, *parts)


def test_an_empty_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    found = try_command("train", *TRAIN, f"data.root={tmp_path / 'empty'}")
    assert_one_line(found, tmp_path, "empty holds no class folders")


def test_a_single_class_is_refused(tree: Path, tmp_path: Path) -> None:
    for folder in tree.glob("*/*"):
        if folder.name != "tennis":
            shutil.rmtree(folder)
    assert_one_line(try_command("train", *TRAIN, f"data.root={tree}"), tmp_path, "'tennis'", "two or more")


def test_a_class_without_images_is_refused(tree: Path, tmp_path: Path) -> None:
    (tree / "train" / "curling").mkdir()
    (tree / "valid" / "curling").mkdir()
    (tree / "test" / "curling").mkdir()
    assert_one_line(try_command("train", *TRAIN, f"data.root={tree}"), tmp_path, "'curling' has no images")


@pytest.mark.parametrize(("split", "change"), [("valid", "add"), ("test", "add")])
def test_classes_that_differ_between_splits_are_refused(tree: Path, tmp_path: Path, split: str, change: str) -> None:
    if change == "remove":
        shutil.rmtree(tree / split / "tennis")
    else:
        shutil.copytree(tree / split / "tennis", tree / split / "curling")
    name = "tennis" if change == "remove" else "curling"
    assert_one_line(try_command("train", *TRAIN, f"data.root={tree}"), tmp_path, f"{tree / split}", f"'{name}'")


@pytest.mark.parametrize("content", ["torn", "text"])
def test_an_unreadable_image_is_named(tree: Path, tmp_path: Path, content: str) -> None:
    victim = tree / "train" / "tennis" / "002.jpg"
    victim.write_bytes(victim.read_bytes()[:1500] if content == "torn" else b"not an image")
    assert_one_line(
        try_command("train", *TRAIN, f"data.root={tree}"), tmp_path, "tennis/002.jpg", "data.skip_unreadable=true"
    )


@pytest.mark.slow
def test_skip_unreadable_leaves_the_file_out_and_names_it(tree: Path, tmp_path: Path) -> None:
    (tree / "train" / "tennis" / "002.jpg").write_bytes(b"not an image")
    run_command("train", *TRAIN, "debug=fast", f"data.root={tree}", "data.skip_unreadable=true", "hydra.run.dir=run")
    log = (tmp_path / "run" / "train.log").read_text()
    assert "tennis/002.jpg" in log
    assert "29 train" in log


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "part"),
    [
        ({"conv.weight": torch.zeros(3)}, "265 missing keys"),
        ({"conv1.weight": torch.zeros(3, 3)}, "does not match resnet50"),
        (timm.create_model("resnet101").state_dict(), "306 unexpected keys"),
        (None, "can't be read as weights"),
    ],
    ids=["foreign", "shapes", "deeper", "text"],
)
def test_weights_that_do_not_fit(
    tree: Path, tmp_path: Path, content: dict[str, torch.Tensor] | None, part: str
) -> None:
    weights = tmp_path / "other.safetensors"
    if content is None:
        weights.write_text("hello")
    else:
        safetensors.torch.save_file(content, weights)
    arguments = [f"data.root={tree}", "model=resnet50", f"model.weights={weights}"]
    assert_one_line(try_command("train", *TRAIN, *arguments), tmp_path, "other.safetensors", part)


def test_no_network_names_all_three_ways(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route")

    monkeypatch.setattr("socket.getaddrinfo", unreachable)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_, **__: None)
    result = try_command("train", *TRAIN, f"data.root={tree}", "model=resnet50")
    assert_one_line(result, tmp_path, "resnet50", "go online", "model.weights=", "model.pretrained=false")


@pytest.mark.slow
def test_a_test_split_is_not_required_without_a_final_test(tree: Path, tmp_path: Path) -> None:
    shutil.rmtree(tree / "test")
    assert_one_line(try_command("train", *TRAIN, f"data.root={tree}"), tmp_path, "test=false")
    run_command("train", *TRAIN, "debug=fast", f"data.root={tree}", "test=false")


def test_unwritable_output_folder(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    result = try_command("train", *TRAIN, f"data.root={tree}", "hydra.run.dir=taken/run")
    assert_one_line(result, tmp_path, "taken", "hydra.run.dir=")


@pytest.mark.parametrize("name", ["evaluate", "predict"])
@pytest.mark.parametrize(
    ("ckpt", "part"),
    [
        (None, "ckpt_path is not set"),
        ("none.ckpt", "is not a file"),
        ("text", "not a checkpoint"),
        ("other", "not a checkpoint of"),
    ],
)
def test_bad_checkpoint_paths_are_refused(few: Path, tmp_path: Path, name: str, ckpt: str | None, part: str) -> None:
    path = tmp_path / (ckpt or "")
    if ckpt == "text":
        path.write_text("hello")
    if ckpt == "other":
        torch.save({"state_dict": {}}, path)
    arguments = [f"ckpt_path={path}"] if ckpt else []
    arguments += [f"input={few}"] if name == "predict" else []
    assert_one_line(try_command(name, *arguments), tmp_path, part)


def test_checkpoint_that_would_run_code_is_refused(few: Path, tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
            return Path.write_text, (tmp_path / "ran", "")  # type: ignore[return-value]

    torch.save({"sports_lightning": Trap()}, tmp_path / "trap.ckpt")
    result = try_command("predict", f"ckpt_path={tmp_path / 'trap.ckpt'}", f"input={few}")
    assert_one_line(result, tmp_path, "trap.ckpt is not a checkpoint")
    assert not (tmp_path / "ran").exists()


def test_input_that_matches_nothing(trained: tuple[Path, str], tmp_path: Path) -> None:
    checkpoint = f"ckpt_path={trained[0] / 'checkpoints/best.ckpt'}"
    assert_one_line(try_command("predict", checkpoint), tmp_path, "input is not set")
    assert_one_line(try_command("predict", checkpoint, "input=no*.jpg"), tmp_path, "input=no*.jpg matches no images")
    (tmp_path / "note.jpg").write_text("no image")
    assert_one_line(
        try_command("predict", checkpoint, "input=note.jpg"), tmp_path, "note.jpg", "not a known image format"
    )


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["model=resnet50", "model.pretrained=false"], ["trained weights", "resnet50", "model.weights=FILE"]),
        (["model=simple_cnn"], ["trained weights", "simple_cnn", "model.weights=FILE"]),
        (["model=timm", "model.name=resnet5"], ["model.name=resnet5", "not known to timm"]),
        (["model=resnet50", "inference.batch_size=auto"], ["inference.batch_size=auto", "whole number"]),
        (["data.root=nowhere"], ["data.root=nowhere"]),
    ],
)
def test_impossible_settings_of_audit_are_refused(
    tree: Path, tmp_path: Path, arguments: list[str], parts: list[str]
) -> None:
    result = try_command("audit", "data=folder", f"data.root={tree}", *arguments)
    assert_one_line(result, tmp_path, *parts)


def test_split_that_does_not_exist(trained: tuple[Path, str], tmp_path: Path) -> None:
    result = try_command("evaluate", f"ckpt_path={trained[0] / 'checkpoints/best.ckpt'}", "split=valid")
    assert_one_line(result, tmp_path, "split=valid", "train, val, test")
