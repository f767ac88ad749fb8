"""Values on the command line: words for booleans, spellings of none, and one line that names all mistakes."""

import inspect
import re
import typing
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf, open_dict

from commands import run_command, try_command
from conftest import assert_error_line, composed
from sports_lightning import CONF_DIR
from sports_lightning.config import checks
from sports_lightning.config.groups import Trainer
from sports_lightning.config.schema import COMMANDS, Predict, Train
from sports_lightning.config.values import Arguments
from sports_lightning.errors import UserError

NEEDED = {
    "train": ["data.root=here", "callbacks=[default,early_stopping,ema]", "finetune=last_stages"],
    "benchmark": ["data.root=here", "callbacks=[default,early_stopping]"],
    "evaluate": ["ckpt_path=best.ckpt"],
    "average": ["ckpt_path=[best.ckpt,best.ckpt]"],
    "organize": ["ckpt_path=best.ckpt", "input=photos", "to=sorted"],
    "export": ["ckpt_path=best.ckpt"],
    "predict": ["ckpt_path=best.ckpt", "input=here"],
    "serve": ["ckpt_path=best.ckpt"],
    "split": ["data.root=here"],
    "audit": ["data.root=here", "model=resnet50", "model.weights=weights.pth"],
    "compare": ["runs=here"],
    "reproduce": ["run=here"],
    "report": ["run=here"],
}


def check(command: str, *overrides: str) -> DictConfig:
    """The config of a command after its check."""
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose(command, [*NEEDED[command], *overrides], return_hydra_config=True)
    cfg.hydra.runtime.output_dir = "here"
    HydraConfig.instance().set_config(cfg)
    with open_dict(cfg):
        del cfg["hydra"]
    getattr(checks, f"check_{command}")(cfg)
    return cfg


@pytest.fixture(autouse=True)
def a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("best.ckpt").touch()
    Path("photos").mkdir()


def typed_keys(schema: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, hint in typing.get_type_hints(schema, include_extras=True).items():
        if is_dataclass(hint):
            yield from typed_keys(typing.cast(type, hint), f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", hint


def boolean_keys(command: str) -> list[str]:
    return [key for key, hint in typed_keys(COMMANDS[command]) if hint is bool or bool in typing.get_args(hint)]


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_every_word_for_a_boolean_works_for_every_boolean_key(command: str) -> None:
    keys = boolean_keys(command)
    assert bool(keys) == (command != "compare")
    exclusive = {"trainer.fast_dev_run", "trainer.barebones", "trainer.use_distributed_sampler"}
    for words, value in ((("no", "off", "N", "False"), False), (("yes", "ON", "y", "true"), True)):
        for i in range(4):
            refused = {"trainer.enable_checkpointing"} if not value else exclusive
            cfg = check(command, *(f"++{key}={words[i]}" for key in keys if key not in refused))
            for key in set(keys) - refused:
                assert OmegaConf.select(cfg, key) is value, key


@pytest.mark.parametrize("command", [command for command in COMMANDS if command != "compare"])
def test_all_other_words_for_a_boolean_are_reported_at_once(command: str) -> None:
    keys = boolean_keys(command)
    with pytest.raises(UserError) as error:
        check(command, *(f"++{key}=maybe" for key in keys))
    for key in keys:
        assert f"{key}=maybe must be true or false" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_key_of_the_config_has_a_type(command: str) -> None:
    cfg = check(command)
    typed = dict(typed_keys(COMMANDS[command]))
    free = [key for key, hint in typed.items() if hint in (Any, Arguments) or typing.get_origin(hint) is dict]

    def keys_of(section: DictConfig, prefix: str = "") -> Iterator[str]:
        for name in section:
            key = f"{prefix}{name}"
            if key in typed or key in free:
                yield key
            elif OmegaConf.is_dict(section._get_node(name)):
                yield from keys_of(section[name], f"{key}.")
            else:
                yield key

    untyped = {
        key
        for key in keys_of(cfg)
        if key not in typed and not key.startswith(("logger.", "callbacks.", "trainer._target_"))
    }
    assert not untyped
    if command == "train":
        assert set(typed) - set(keys_of(cfg)) <= {"finetune.epochs_per_stage"} | {
            key for key in typed if key.startswith("callbacks.")
        }


def test_every_argument_of_lightnings_trainer_is_a_key() -> None:
    arguments = set(inspect.signature(pl.Trainer).parameters) - {"callbacks", "logger"}  # separate groups
    assert {key for key, _ in typed_keys(Trainer)} == arguments
    assert set(check("train").trainer) - {"_target_"} == arguments


@pytest.mark.parametrize(
    ("override", "remedy"),
    [
        ("model.image_size=[1,2,3]", "height and width"),
        ("+model.arguments.in_chans=4", "3 or 1"),
        ("model.crop_mode=pad", "center, squash, border"),
        ("data.value_range=[5,5]", "[0,4095]"),
        ("data.max_pixels=0", "1 or more"),
        ("trainer.fast_dev_run=true", "debug=fast"),
        ("trainer.fast_dev_run=3", "debug=fast"),
        ("trainer.overfit_batches=2", "debug=overfit"),
        ("trainer.barebones=yes", "sports_lightning.benchmark"),
        ("trainer.enable_checkpointing=no", "leave it out"),
        ("trainer.use_distributed_sampler=on", "leave it out"),
        ("trainer.limit_test_batches=0", "test=false"),
        ("trainer.limit_predict_batches=5", "leave it out"),
        ("trainer.limit_val_batches=0", "above 0"),
        ("trainer.limit_train_batches=0.0", "above 0"),
        ("trainer.max_epochs=0", "evaluate"),
        ("trainer.max_steps=0", "-1 for no limit"),
        ("trainer.max_epochs=-1", "trainer.max_time"),
        ("trainer.max_epochs=null", "trainer.max_steps"),
        ("trainer.max_time=10", "DD:HH:MM:SS"),
        ("trainer.max_time='00:10'", "DD:HH:MM:SS"),
        ("trainer.val_check_interval=0", "fraction of an epoch"),
        ("trainer.val_check_interval=1.5", "fraction of an epoch"),
        ("trainer.val_check_interval='00:00:10:00'", "a number of batches"),
        ("trainer.val_check_interval={minutes: 10}", "a number of batches"),
        ("+trainer.gpu=1", "--help"),
        ("+trainer.limit_train_batch=1", "did you mean trainer.limit_train_batches?"),
        ("+trainer.logger=false", "logger=NAME"),
        ("callbacks.best.monitor=val/accuracy", "val/loss, val/acc"),
        ("callbacks.best.monitor=null", "val/loss, val/acc"),
        ("callbacks.best=null", "is missing: add default"),
        ("callbacks=[early_stopping]", "add default"),
        ("callbacks.best.save_top_k=-2", "-1 or more"),
        ("+callbacks.best.save_last=true", "callbacks.last"),
        ("+callbacks.best.every_n_train_steps=5", "trainer.val_check_interval"),
        ("callbacks.best.filename='{epoch}-{val_acc:.2f}'", "val_acc is unknown"),
        ("callbacks.best.filename=../../esc", "use callbacks.best.dirpath=FOLDER"),
        ("callbacks.best.filename='{epoch}/../../{step}'", "use callbacks.best.dirpath=FOLDER"),
        ("callbacks.best.filename=/esc", "use callbacks.best.dirpath=FOLDER"),
        (
            "+callbacks.x={_target_: pytorch_lightning.callbacks.ModelCheckpoint, filename: ../esc}",
            "use callbacks.x.dirpath=FOLDER",
        ),
        ("+callbacks.x=5", "_target_"),
        ("+callbacks.x={monitor: val/acc}", "_target_"),
        ("+callbacks.x._target_=lightning.pytorch.callbacks.Timer", "use pytorch_lightning.callbacks.Timer"),
        ("+logger.x._target_=lightning.pytorch.loggers.CSVLogger", "use pytorch_lightning.loggers.CSVLogger"),
        *(
            (f"+callbacks.x._target_=pytorch_lightning.callbacks.{name}", remedy)
            for name, remedy in {
                "LearningRateFinder": "-m optimizer.lr=",
                "lr_finder.LearningRateFinder": "-m optimizer.lr=",
                "BatchSizeFinder": "data.batch_size=auto",
                "StochasticWeightAveraging": "callbacks=[default,ema]",
                "GradientAccumulationScheduler": "trainer.accumulate_grad_batches",
                "BackboneFinetuning": "finetune=gradual",
                "ModelPruning": "not supported",
            }.items()
        ),
        ("callbacks.best={monitor: val/loss, mode: max}", "callbacks.best.mode=null"),
        ("callbacks.early_stopping.mode=min", "callbacks.early_stopping.mode=null"),
        ("callbacks.best.mode=up", "one of min, max"),
        ("finetune.mode=gradual", "finetune=gradual"),
        ("optimizer.lr=inf", "a number above 0"),
        ("optimizer.lr=nan", "a number above 0"),
        ("seed=4294967296", "below 2**32"),
        ("+optimizer.arguments.nesterov=no", "optimizer.arguments.nesterov=no must be true or false"),
        ("+augment.transforms.erase={inplace: off}", "augment.transforms.erase.inplace=off must be true or false"),
        *((f"trainer.max_time={time}", "or {hours: 12}") for time in ("{hour: 1}", "{hours: x}", "{}", "{days: true}")),
        ("loss.class_weights={a: heavy}", "loss.class_weights"),
        ("loss.class_weights='{ä: heavy}'", "must be balanced, or {NAME: VALUE}"),
        ("loss.class_weights='{ä: -1}'", "0 or more"),
        ("loss.class_weights='{ä: nan}'", "must be balanced, or {NAME: VALUE}"),
        ("loss.class_weights='{ä: {b: 1}}'", "must be balanced, or {NAME: VALUE}"),
        ("data.cache=fast", "one of ram, disk, or null"),
        ("data.num_workers=some", "a whole number, 0 or more, or auto"),
        ("inference.accelerator=tpu", "one of auto, cpu"),
        ("model.name=???", "model.name is not set"),
        ("augment.transforms=null", "augment.transforms=null must be a group of keys"),
        ("model.arguments=null", "model.arguments=null must be a group of keys"),
        ("loss.function=none", "loss.function=none must be a group of keys"),
    ],
)
def test_impossible_settings_are_one_line_with_a_remedy(override: str, remedy: str) -> None:
    with pytest.raises(UserError) as error:
        check("train", override)
    assert override.partition("=")[0].strip("+") in str(error.value)
    assert remedy in str(error.value)


@pytest.mark.parametrize(
    ("overrides", "remedy"),
    [
        (["trainer.max_epochs=-1", "trainer.max_time=00:01:00:00"], "scheduler=constant"),
        (["callbacks.best.monitor=train/loss", "trainer.val_check_interval=0.5"], "a metric of val/"),
        (["callbacks.early_stopping.monitor=train/loss", "trainer.check_val_every_n_epoch=2"], "a metric of val/"),
        (["logger=csv", "+callbacks.x._target_=pytorch_lightning.callbacks.LearningRateMonitor"], "logger=tensorboard"),
    ],
)
def test_settings_that_exclude_each_other_are_one_line(overrides: list[str], remedy: str) -> None:
    with pytest.raises(UserError, match=remedy):
        check("train", *overrides)


def test_a_length_in_steps_or_a_constant_rate_needs_no_number_of_epochs() -> None:
    check("train", "trainer.max_epochs=-1", "trainer.max_steps=100")
    check("train", "trainer.max_epochs=null", "trainer.max_time=00:01:00:00", "scheduler=constant")
    check("train", "trainer.max_time={hours: 1}", "trainer.val_check_interval=1.0")


def test_all_mistakes_are_one_line() -> None:
    overrides = ["data=folder", "test=perhaps", "seed=-1", "trainer.max_steps=0"]
    result = try_command("train", *overrides, "trainer.fast_dev_run=yes")
    parts = ["data.root is not set", "test=perhaps", "seed=-1", "trainer.max_steps=0 trains nothing", "debug=fast"]
    assert_error_line(result, *parts)


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("logger=none", "logger", {}),
        ("logger=csv", "logger", {}),
        ("data.cache=none", "data.cache", None),
        ("refit=None", "refit", None),
        ("model.weights=none", "model.weights", None),
        ("callbacks.last.every_n_minutes=none", "callbacks.last.every_n_minutes", None),
        ("callbacks.best.monitor=val/loss", "callbacks.best.mode", "min"),
        ("callbacks.early_stopping.monitor=val/loss", "callbacks.early_stopping.mode", "min"),
        ("callbacks.best.monitor=val/f1_macro", "callbacks.best.mode", "max"),
        ("trainer.max_steps=1e4", "trainer.max_steps", 10000),
        ("trainer.precision=16", "trainer.precision", 16),
        ("trainer.deterministic=no", "trainer.deterministic", False),
        ("loss.class_weights={cat: 2, dog: 0.5}", "loss.class_weights", {"cat": 2, "dog": 0.5}),
        (
            "loss.class_weights='{Größe: 2, \"a, b\":1e-3, no: 1}'",
            "loss.class_weights",
            {"Größe": 2, "a, b": 1e-3, "no": 1},
        ),
        ("loss.class_weights='{Größe:1e-1,b: 1}'", "loss.class_weights", {"Größe": 0.1, "b": 1}),
        ("loss.class_weights=[1,2]", "loss.class_weights", [1, 2]),
        ("data.root=2024", "data.root", "2024"),
        ("+augment.views=3", "augment.fixed_augmentations", 3),  # as in a user's own YAML file
        ("+finetune.keep_gb=1", "finetune.cache_limit_gb", 1),
    ],
)
def test_usual_spellings_are_accepted(override: str, key: str, value: object) -> None:
    found = OmegaConf.select(check("train", override), key)
    assert found == value
    assert type(found) is type(value) or isinstance(value, dict | list)


@pytest.mark.parametrize("none", ["callbacks=none", "callbacks=[none]", "callbacks=[default,none]"])
def test_no_further_callbacks_means_the_default_ones(none: str) -> None:
    assert set(check("train", none).callbacks) == set(check("train", "callbacks=[default]").callbacks)


@pytest.mark.parametrize(
    ("callback", "mode"),
    [
        ("{_target_: mine.StopLate, monitor: val/acc}", None),
        ("{_target_: mine.StopLate, monitor: val/acc, mode: null}", "max"),
        ("{_target_: pytorch_lightning.callbacks.EarlyStopping, monitor: val/acc}", "max"),
    ],
)
def test_only_a_callback_that_takes_a_mode_is_given_one(callback: str, mode: str | None) -> None:
    assert check("train", f"+callbacks.mine={callback}").callbacks.mine.get("mode") == mode


def test_a_sweep_leaves_the_monitor_to_the_check_of_each_job() -> None:
    cfg = check("train")
    cfg.callbacks.best.monitor = "val/accuracy"
    checks.check_sweep(cfg)
    with pytest.raises(UserError, match="monitor"):
        checks.check_train(cfg)


@pytest.mark.slow
def test_a_run_folder_holds_the_converted_config(few: Path, tmp_path: Path) -> None:
    (tmp_path / "own/augment").mkdir(parents=True)
    (tmp_path / "own/augment/mine.yaml").write_text("defaults: [none, _self_]\nviews: 2\n")
    arguments = ["--config-dir=own", "augment=mine", "debug=fast", "data=folder", f"data.root={few}", "test=no"]
    arguments += [
        "model=simple_cnn",
        "model.image_size=64",
        "trainer.accelerator=cpu",
        "trainer.enable_progress_bar=off",
    ]
    run_command("train", *arguments, "hydra.run.dir=run")
    assert "augment.views is now called augment.fixed_augmentations" in (tmp_path / "run/train.log").read_text()
    stored = OmegaConf.load(tmp_path / "run/.hydra/config.yaml")
    assert stored.test is False
    assert stored.augment.fixed_augmentations == 2
    assert "views" not in stored.augment
    assert stored.callbacks.best.mode == "max"
    assert "test" not in (tmp_path / "run/metrics.json").read_text()


def test_a_checkpoint_to_continue_is_refused_by_benchmark() -> None:
    with pytest.raises(UserError, match="ckpt_path=last has no effect on benchmark"):
        check("benchmark", "ckpt_path=last")


@pytest.mark.parametrize("setting", ["trainer.devices=4", "trainer.devices=[0, 1]", "trainer.num_nodes=2"])
def test_several_devices_are_refused_by_benchmark(setting: str) -> None:
    with pytest.raises(UserError, match=rf"{re.escape(setting)}.*benchmark uses one device"):
        check("benchmark", setting)


def test_a_key_that_nothing_reads_is_named(tmp_path: Path) -> None:
    cfg = check("predict", "+data.root=x", "+data.cache=disk")
    assert checks.keys_without_effect(cfg, Predict) == ["data.root", "data.cache"]
    extra = ["+optimizer.momentum=0.9", "+model.wide=8", "trainer.log_every_n_steps=${model.wide}", "+trainer.x=1"]
    assert checks.keys_without_effect(composed(tmp_path, *extra), Train) == ["optimizer.momentum"]


@pytest.mark.parametrize("mode", ["bogus", "OFFLINE", ""])
def test_a_wrong_mode_of_wandb_is_named(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", mode)
    check("train", "logger=csv")
    with pytest.raises(UserError, match=f"^WANDB_MODE={mode} in the environment must be unset, or one of online, "):
        check("train", "logger=wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    check("train", "logger=wandb")
