"""Every file in every config group composes and builds the documented object."""

import runpy
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch
from hydra.utils import instantiate

from conftest import composed
from sports_lightning import CONF_DIR
from sports_lightning.config.checks import check_train
from sports_lightning.data.augment import build_mix, build_transform
from sports_lightning.data.preprocessing import Preprocessing
from sports_lightning.models.classifier import build_classifier
from sports_lightning.train.losses import loss_function
from sports_lightning.train.module import ClassifierModule

CHOICES = sorted(
    f"{path.parent.name}={path.stem}"
    for path in CONF_DIR.glob("*/*.yaml")
    if path.parent.name not in ("hydra", "inference")
)
SLOW = {"logger=mlflow", "logger=many"}  # which import a large package
EXTRA = {"logger=tensorboard": "tensorboard", "logger=many": "tensorboard", "logger=mlflow": "mlflow"}
NEEDS = {"model=timm": ["model.name=resnet18"]}


@pytest.mark.parametrize(
    "choice", [pytest.param(choice, marks=[pytest.mark.slow] if choice in SLOW else []) for choice in CHOICES]
)
def test_choice_composes_and_builds(choice: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if choice in EXTRA:
        pytest.importorskip(EXTRA[choice])
    group, name = choice.split("=")
    override = f"{group}=[default,{name}]" if group == "callbacks" and name != "default" else choice
    monkeypatch.chdir(tmp_path)  # where MLflow's database goes
    cfg = composed(tmp_path, override, "model.pretrained=false", *NEEDS.get(choice, []))
    classes = ["a", "b", "c"]
    classifier = build_classifier(cfg.model, classes, tmp_path)
    cfg.augment.preprocessing = classifier.spec.preprocessing
    loss = loss_function(cfg.loss, classes, [3, 2, 1])
    module = ClassifierModule(classifier, loss, cfg.optimizer, cfg.scheduler, cfg.finetune, cfg.seed)
    callbacks = [instantiate(callback) for callback in cfg.callbacks.values()]
    loggers = [instantiate(logger) for logger in cfg.logger.values()]
    cfg.trainer.precision = "32-true" if cfg.trainer.precision == "auto" else cfg.trainer.precision
    trainer = instantiate(cfg.trainer, callbacks=callbacks, logger=loggers, _convert_="all")
    assert isinstance(trainer, pl.Trainer)
    module.trainer = trainer
    trainer.datamodule = SimpleNamespace(train_dataloader=lambda: range(10))  # type: ignore[attr-defined]
    optimizers = module.configure_optimizers()
    optimizer = optimizers["optimizer"] if isinstance(optimizers, dict) else optimizers
    assert isinstance(optimizer, torch.optim.Optimizer)
    assert sum(p.numel() for group in optimizer.param_groups for p in group["params"]) > 0

    image = torch.randint(256, (3, 70, 90), dtype=torch.uint8)
    augmented = build_transform(cfg.augment)(image)
    size = Preprocessing.from_dict(classifier.spec.preprocessing).size
    crop = cfg.augment.transforms.get("crop")
    assert augmented.shape == (3, *(crop.size if crop else size))
    assert augmented.dtype == torch.uint8
    mix = build_mix(cfg.augment, len(classes))
    if mix:
        mixed, target = mix(torch.stack([augmented, augmented]), torch.tensor([0, 2]))
        assert mixed.dtype == torch.uint8
        assert float(target.sum()) == pytest.approx(1)
    logits = module.eval().classifier(torch.zeros(1, 3, *size, dtype=torch.uint8))
    assert logits.shape == (1, 3)
    assert module.loss(logits, torch.tensor([1])).isfinite()


@pytest.mark.slow
@pytest.mark.parametrize("debug", sorted(path.stem for path in CONF_DIR.glob("debug/*.yaml")))
def test_every_recipe_runs_with_debug_fast(debug: str, tmp_path: Path) -> None:
    for experiment in CONF_DIR.glob("experiment/*.yaml"):
        cfg = composed(tmp_path, f"experiment={experiment.stem}", f"debug={debug}")
        check_train(cfg)
        assert cfg.refit is None, "this runs over all images"


def test_every_file_starts_with_a_description() -> None:
    for path in CONF_DIR.rglob("*.yaml"):
        lines = path.read_text().splitlines()
        assert lines[lines[0] == "# @package _global_"].startswith("# "), path


def test_every_key_has_a_comment_where_it_is_declared_and_the_reference_is_up_to_date() -> None:
    reference = runpy.run_path(str(CONF_DIR.parent / "docs/generate_reference.py"))
    keys = [key for file in CONF_DIR.glob("*.yaml") for key in reference["read_keys"](file, "")]
    keys += [key for group in reference["GROUPS"] for key in reference["group_keys"](group)]
    assert not [key.name for key in keys if not key.comment]
    assert reference["PAGE"].read_text() == reference["build_page"](), "run python docs/generate_reference.py"


def test_every_experiment_states_its_result() -> None:
    for path in CONF_DIR.glob("experiment/*.yaml"):
        comment = path.read_text().partition("defaults:")[0]
        for part in ("#   command: python -m sports_lightning.train", "#   machine:", "#   seconds:", "#   result:"):
            assert part in comment, f"{path} lacks {part}"
