"""Checks of values that no config file can express; a wrong one is a line before any work begins."""

from omegaconf import DictConfig, ListConfig, OmegaConf

from sports_lightning.errors import UserError
from sports_lightning.storage.files import checkpoint_file


def check_train(cfg: DictConfig) -> None:
    """Raise UserError for the first impossible value of `conf/train.yaml`."""
    _whole(cfg, "seed", 0)
    if cfg.seed >= 2**32:
        raise UserError(f"seed={cfg.seed} must be below 2**32")
    (_whole if "steps" in cfg else _whole_or_auto)(cfg, "data.batch_size", 1)
    _whole_or_auto(cfg, "data.num_workers", 0)
    check_sweep(cfg)
    _choice(cfg, "data.cache", [None, "ram", "disk"])
    _check_inference(cfg)
    if cfg.augment.fixed_augmentations is not None:
        _whole(cfg, "augment.fixed_augmentations", 1)
    sides = cfg.augment.progressive_sizes
    pairs = [list(p) if isinstance(p, ListConfig) else [] for p in sides] if isinstance(sides, ListConfig) else [[]]
    for pair in pairs:
        if len(pair) != 2 or not all(isinstance(n, int) for n in pair) or pair[0] < 0 or pair[1] < 1:
            raise UserError(
                f"augment.progressive_sizes={sides} must be pairs of an epoch and pixels, as in [[0,64],[5,96]]"
            )
    if sides and cfg.augment.fixed_augmentations is not None:
        raise UserError(
            "augment.fixed_augmentations and augment.progressive_sizes exclude each other: a view has one size"
        )
    _positive(cfg, "optimizer.lr")
    _positive(cfg, "augment.mixup", or_zero=True)
    _positive(cfg, "augment.cutmix", or_zero=True)
    _whole(cfg, "trainer.max_epochs", 1)
    every = cfg.trainer.check_val_every_n_epoch
    if every is not None:  # null: validation goes by batches alone (trainer.val_check_interval)
        _whole(cfg, "trainer.check_val_every_n_epoch", 1)
        if cfg.trainer.max_epochs % every:
            raise UserError(
                f"trainer.max_epochs={cfg.trainer.max_epochs} is no multiple of trainer.check_val_every_n_epoch="
                f"{every}, so that the last epoch could not be the best: set trainer.check_val_every_n_epoch=1"
            )
    _choice(cfg, "finetune.mode", ["full", "head", "last_stages", "gradual"])
    if cfg.trainer.strategy == "fsdp":
        _check_sharding(cfg)
    if cfg.finetune.mode == "gradual":
        _whole(cfg, "finetune.epochs_per_stage", 1)
    if cfg.finetune.mode == "last_stages":
        _whole(cfg, "finetune.stages", 0)
        _positive(cfg, "finetune.cache_limit_gb", or_zero=True)
    _choice(cfg, "loss.class_weights", [None, "balanced"])
    if cfg.refit is not None:
        _positive(cfg, "refit")
    if cfg.scheduler.name == "plateau":
        raise UserError("scheduler.name=plateau follows no schedule by steps; choose cosine, linear, step or constant")
    if cfg.scheduler.name == "none" and cfg.optimizer.layer_decay is not None:
        raise UserError("optimizer.layer_decay needs a schedule: use scheduler=constant instead of scheduler.name=none")
    if cfg.model.image_size is not None:
        _whole(cfg, "model.image_size", 1)
    if "steps" in cfg:  # benchmark's
        _whole(cfg, "steps", 1)
    _check_root(cfg)


def _check_sharding(cfg: DictConfig) -> None:
    """Raise UserError for what does not go with `trainer.strategy=fsdp`."""
    if cfg.finetune.mode != "full":
        raise UserError("trainer.strategy=fsdp wants all of the network to learn: set finetune=full, or strategy=ddp")
    if cfg.data.batch_size == "auto":
        raise UserError("trainer.strategy=fsdp and data.batch_size=auto, which tries the whole network: set a number")
    if cfg.trainer.sync_batchnorm:
        raise UserError("trainer.strategy=fsdp has no sync_batchnorm: set trainer.strategy=ddp")
    if "steps" in cfg:
        raise UserError("benchmark measures one device: leave trainer.strategy=fsdp out")


def check_sweep(cfg: DictConfig) -> None:
    """Raise UserError for the first impossible value of `conf/sweep/default.yaml`."""
    _choice(cfg, "sweep.on_error", ["continue", "stop"])
    _whole(cfg, "sweep.parallel", 1)


def check_search(cfg: DictConfig) -> None:
    """Raise UserError for the first impossible value of a config with Hydra's part, for `sweep=optuna`."""
    check_sweep(cfg)
    _whole(cfg, "hydra.sweeper.n_trials", 1)
    if str(cfg.hydra.sweeper.sampler._target_).endswith(("GridSampler", "BruteForceSampler")):
        raise UserError("a grid needs no search: python -m sports_lightning.train -m KEY=A,B")


def check_evaluate(cfg: DictConfig) -> None:
    """Raise UserError for the first impossible value of `conf/evaluate.yaml`."""
    _check_ckpt_path(cfg)
    _choice(cfg, "split", ["train", "val", "test"])
    _check_cache_dir(cfg)
    _check_inference(cfg)


def check_predict(cfg: DictConfig) -> None:
    """Raise UserError for the first impossible value of `conf/predict.yaml`."""
    _check_ckpt_path(cfg)
    _required(cfg, "input", "a file, a folder or a glob")
    _check_inference(cfg)


def check_audit(cfg: DictConfig) -> None:
    """Raise UserError for the first impossible value of `conf/audit.yaml`."""
    _check_root(cfg)
    if "model" in cfg:
        _check_inference(cfg)
        if not (cfg.model.pretrained or cfg.model.weights):
            raise UserError(
                f"audit needs trained weights, and model.name={cfg.model.name} is without: set model.weights=FILE, or "
                f"choose a model that has them and leave model.pretrained as it is"
            )


def check_compare(cfg: DictConfig) -> None:
    """Raise UserError for the first impossible value of `conf/compare.yaml`."""
    _required(cfg, "runs", "[outputs/train]")


def check_reproduce(cfg: DictConfig) -> None:
    """Raise UserError for the first impossible value of `conf/reproduce.yaml`."""
    _required(cfg, "run", "outputs/train/RUN_FOLDER")


def _check_cache_dir(cfg: DictConfig) -> None:
    if not cfg.data.cache_dir:
        raise UserError("data.cache_dir is not set: data.cache_dir=FOLDER, where there is room for what is kept")


def _check_root(cfg: DictConfig) -> None:
    _check_cache_dir(cfg)
    if cfg.data.root is None:
        raise UserError("data.root is not set: data.root=FOLDER, one that holds train/ valid/ test/")


def _check_inference(cfg: DictConfig) -> None:
    if "trainer" not in cfg or cfg.data.batch_size != "auto":  # which a training replaces by what it finds
        _whole(cfg, "inference.batch_size", 1)
    _whole_or_auto(cfg, "inference.num_workers", 0)
    _choice(cfg, "inference.accelerator", ["auto", "cpu", "gpu", "cuda", "mps", "tpu"])
    _choice(cfg, "inference.precision", ["32-true", "16-mixed", "bf16-mixed", "bf16-true", "64-true"])


def _check_ckpt_path(cfg: DictConfig) -> None:
    _required(cfg, "ckpt_path", "RUN_FOLDER/checkpoints/best.ckpt")
    checkpoint_file(str(cfg.ckpt_path))  # before anything is imported that takes seconds


def _required(cfg: DictConfig, key: str, example: str) -> None:
    if OmegaConf.select(cfg, key) is None:
        raise UserError(f"{key} is not set: pass {key}={example}")


def _choice(cfg: DictConfig, key: str, choices: list[str | None]) -> None:
    value = OmegaConf.select(cfg, key)
    if value not in choices:
        raise UserError(f"{key}={value} is not one of {', '.join(map(str, choices))}")


def _whole(cfg: DictConfig, key: str, least: int) -> None:
    value = OmegaConf.select(cfg, key)
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise UserError(f"{key}={value} must be a whole number, {least} or more")


def _whole_or_auto(cfg: DictConfig, key: str, least: int) -> None:
    if OmegaConf.select(cfg, key) != "auto":
        _whole(cfg, key, least)


def _positive(cfg: DictConfig, key: str, or_zero: bool = False) -> None:
    value = OmegaConf.select(cfg, key)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not (value > 0 or (or_zero and value == 0)):
        raise UserError(f"{key}={value} must be a number above 0{', or 0' if or_zero else ''}")
