"""Which interrupted prediction is resumed."""

import os
from pathlib import Path

from sports_lightning.errors import UserError
from sports_lightning.runs.layout import PARTS
from sports_lightning.runs.resume import check_trust


def check_resumable_prediction(value: str, is_trusted: bool) -> Path:
    """The folder of the prediction that `resume=value` names.

    Args:
        value: the value on the command line.
        is_trusted: whether its config may name any `_target_`.

    Raises:
        UserError: it is not the folder of an interrupted prediction, or its config could run foreign code.
    """
    folder = Path(os.path.abspath(Path(value).expanduser()))
    if not (folder / PARTS).is_dir():
        is_finished = (folder / "predictions.csv").is_file()
        problem = "holds finished predictions" if is_finished else "is no interrupted predict with anything finished"
        raise UserError(
            f"resume={value} {problem}: pass one that holds the folder {PARTS}, such as outputs/predict/RUN"
        )
    check_trust(folder, value, is_trusted)
    return folder
