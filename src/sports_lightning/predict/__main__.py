"""Predict the classes of images: `python -m sports_lightning.predict ckpt_path=RUN/checkpoints/best.ckpt IMAGES`."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from sports_lightning.cli.app import main
from sports_lightning.cli.command import Command
from sports_lightning.cli.process_setup import quick_imports
from sports_lightning.config.checks import check_predict


def predict(cfg: DictConfig, folder: Path) -> None:
    """Predict every image that `input` names and write tables, arrays and `predictions.png`."""
    check_predict(cfg)
    with quick_imports():
        from sports_lightning.data.formats import limit_pixels
        from sports_lightning.evaluate.decisions import DecisionSettings
        from sports_lightning.models.classifier import load_classifier
        from sports_lightning.predict.prediction import find_inputs, predict_images
        from sports_lightning.reports.decorations import draw_missing

    limit_pixels(cfg.data.max_pixels)
    paths = find_inputs([cfg.input] if isinstance(cfg.input, str) else list(cfg.input))
    classifier = load_classifier(str(cfg.ckpt_path))
    settings = DecisionSettings(cfg.reject, cfg.coverage, cfg.conformal)
    predictions = predict_images(classifier, paths, cfg.inference, cfg.data.value_range, cfg.save, settings)
    predictions.write(folder)
    predictions.print()
    (folder / "predictions.png").unlink(missing_ok=True)  # of an earlier command with the same folder
    draw_missing({"predictions.png": predictions.draw}, folder)


COMMAND = Command("predict", predict, positional="input")

if __name__ == "__main__":
    sys.exit(main(COMMAND))
