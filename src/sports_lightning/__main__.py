"""`sports-lightning COMMAND …` and `python -m sports_lightning COMMAND …`; without a command, the list of commands."""

import difflib
import runpy
import sys
from collections.abc import Sequence

from sports_lightning import __version__

COMMANDS = {
    "train": "train a classifier on images, and test the best checkpoint",
    "evaluate": "metrics, predictions, confusion matrix and worst mistakes of a checkpoint",
    "average": "average the weights of several runs, as the validation split chooses",
    "predict": "predict the classes of new images: files, folders or globs",
    "organize": "sort photographs into folders by class: plan, apply, undo",
    "export": "write a checkpoint as ONNX, OpenVINO, torch.export or for timm, and compare its answers",
    "serve": "answer HTTP requests with predictions, and show a page to drop images on",
    "split": "assign images to train, val and test, near copies together",
    "audit": "find duplicates, leaks between splits, wrong labels, and damaged files in a dataset",
    "compare": "compare finished runs, with significance tests",
    "reproduce": "repeat a run and compare every result",
    "report": "draw the missing plots and pages of a finished run",
    "benchmark": "measure how fast a training would be, and what limits it",
}

_EXAMPLES = """\
Examples
  sports-lightning train data=sample
  sports-lightning train data=folder data.root=IMAGES model=resnet50 finetune=head
  sports-lightning evaluate ckpt_path=RUN/checkpoints/best.ckpt split=val
  sports-lightning predict ckpt_path=RUN/checkpoints/best.ckpt IMAGES
  sports-lightning organize ckpt_path=RUN/checkpoints/best.ckpt input=PHOTOS to=SORTED
  sports-lightning serve ckpt_path=RUN/checkpoints/best.ckpt
  sports-lightning compare outputs/train

Each command documents its settings with --help, and prints its config with --cfg job.
`python -m sports_lightning.COMMAND` is the same as `sports-lightning COMMAND`.
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that the first argument names, in this process; list the commands without arguments."""
    name, *rest = [*(sys.argv[1:] if argv is None else argv), ""]
    if name in ("", "-h", "--help", "help"):
        print(_overview(), end="")
    elif name == "--version":
        print(f"sports_lightning {__version__}")
    elif name in COMMANDS:
        # As with `python -m`: the other processes of a distributed run are started by this module's name.
        sys.argv[1:] = rest[:-1]
        runpy.run_module(f"sports_lightning.{name}", run_name="__main__", alter_sys=True)
    else:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {close[0]}?" if close else f"choose one of {', '.join(COMMANDS)}"
        print(f"error: there is no command {name}: {hint}", file=sys.stderr)
        sys.exit(1)


def _overview() -> str:
    lines = "".join(f"  {name:<10} {description}\n" for name, description in COMMANDS.items())
    return f"sports-lightning: train, compare and use image classifiers\n\nCommands\n{lines}\n{_EXAMPLES}"


if __name__ == "__main__":
    main()
