"""Rules on the keys of `conf/data/*.yaml`."""

from omegaconf import ListConfig

from sports_lightning.config.rule import Rule, required

CACHE = (required("data.cache_dir", "FOLDER, on a disk with space for cached files"),)
READING = (
    Rule(
        ("data.value_range",),
        lambda values: isinstance(values, ListConfig) and not (len(values) == 2 and values[0] < values[1]),
        "data.value_range={0} must be auto, or the values of black and white, as in [0,4095]",
    ),
)
DATASET = (
    Rule(
        ("data.split.val", "data.split.test"),
        lambda val, test: not (val > 0 and val + (0 if test == "auto" else test) < 1),
        "data.split.val={0} and data.split.test={1} must be shares such as 0.1, which leave images for train",
    ),
    Rule(
        ("data.folds", "data.fold"),
        lambda folds, fold: (folds is None) != (fold is None),
        "data.folds={0} and data.fold={1} belong together: set both, or run all folds with sweep=kfold data.folds=5",
    ),
    Rule(
        ("data.fold", "data.folds"),
        lambda fold, folds: fold is not None and folds is not None and fold >= folds,
        "data.fold={0} does not exist: the {1} folds are numbered from 0",
    ),
    Rule(
        ("data.split.previous", "data.folds"),
        lambda previous, folds: previous is not None and folds is not None,
        "data.split.previous={0} and data.folds={1} exclude each other: folds are assigned anew",
    ),
)
DATA = (
    *CACHE,
    *READING,
    *DATASET,
    Rule(
        ("data.root", "data.manifest", "data.source"),
        lambda root, manifest, source: root is None and manifest is None and source != "huggingface",
        "data.root is not set: pass data.root=FOLDER, which holds train/ valid/ test/ or one folder per class",
    ),
)
