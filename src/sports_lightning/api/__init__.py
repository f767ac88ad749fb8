"""The Python API: `load`, `finetune`, `open_run` and `compare` of `sports_lightning`."""
