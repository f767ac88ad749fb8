"""Serve a classifier: `python -m sports_lightning.serve ckpt_path=RUN/checkpoints/best.ckpt`."""

import sys
from pathlib import Path

from omegaconf import DictConfig

from sports_lightning.cli.app import main
from sports_lightning.cli.command import Command
from sports_lightning.cli.process_setup import quick_imports
from sports_lightning.config.checks import check_serve


def serve(cfg: DictConfig, folder: Path) -> None:
    """Answer HTTP requests with the predictions of a checkpoint until SIGTERM or Ctrl-C."""
    check_serve(cfg)
    with quick_imports():
        from sports_lightning.data.formats import limit_pixels
        from sports_lightning.models.classifier import load_classifier
        from sports_lightning.serve.server import open_socket, run_server
        from sports_lightning.serve.service import open_service

    limit_pixels(cfg.data.max_pixels)
    classifier = load_classifier(str(cfg.ckpt_path))
    classifier.set_crop_mode(cfg.data.crop_mode)
    with open_socket(cfg.host, cfg.port) as socket, open_service(classifier, cfg) as service:
        run_server(service, socket)


COMMAND = Command("serve", serve)

if __name__ == "__main__":
    sys.exit(main(COMMAND))
