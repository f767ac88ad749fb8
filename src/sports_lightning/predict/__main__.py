"""Predict the classes of images: `python -m sports_lightning.predict ckpt_path=RUN/checkpoints/best.ckpt IMAGES`."""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

from omegaconf import DictConfig

from sports_lightning.cli.app import main
from sports_lightning.cli.command import Command
from sports_lightning.cli.process_setup import quick_imports
from sports_lightning.config.checks import check_predict
from sports_lightning.errors import UserError
from sports_lightning.predict.resume import check_resumable_prediction
from sports_lightning.runs.layout import PARTS
from sports_lightning.storage.files import checkpoint_digest


def predict(cfg: DictConfig, folder: Path) -> None:
    """Predict every image that `input` names and write tables, arrays and `predictions.png`.

    Several processes of torchrun or srun share the images; the first one writes the files. Until they are written,
    finished parts of the work are in `parts/`.
    """
    check_predict(cfg)
    with quick_imports():
        from sports_lightning.data.file_hashes import printable
        from sports_lightning.data.formats import limit_pixels
        from sports_lightning.evaluate.decisions import DecisionSettings
        from sports_lightning.inference.exported import open_classifier
        from sports_lightning.inference.input_files import InputFiles
        from sports_lightning.inference.precision import choose_inference_precision
        from sports_lightning.inference.ranks import join_ranks
        from sports_lightning.predict.inputs import find_inputs, split_videos
        from sports_lightning.predict.prediction import SharedWork, predict_images
        from sports_lightning.predict.videos import predict_videos
        from sports_lightning.reports.decorations import draw_missing
        from sports_lightning.videos.shots import require_scenedetect
        from sports_lightning.videos.video_prediction import VideoSettings

    limit_pixels(cfg.data.max_pixels)
    paths = find_inputs([cfg.input] if isinstance(cfg.input, str) else list(cfg.input))
    images, videos = split_videos(paths)
    if videos and cfg.video.every == "shot":
        require_scenedetect()
    classifier = open_classifier(str(cfg.ckpt_path))
    classifier.set_crop_mode(cfg.data.crop_mode)
    settings = DecisionSettings(cfg.reject, cfg.coverage, cfg.conformal)
    with join_ranks() as ranks:
        work = SharedWork(folder / PARTS, checkpoint_digest(cfg.ckpt_path), ranks)
        if ranks.rank == 0:
            (folder / PARTS).mkdir(exist_ok=True)  # by which an interrupted prediction is known
        files = InputFiles(images, classifier.preprocessing)
        inference = ranks.gather(choose_inference_precision(classifier, files, cfg.inference)[0])[0]
        predictions = predict_images(
            classifier, images, inference, cfg.data.value_range, cfg.save, settings, work, bool(videos)
        )
        timelines, problems = predict_videos(classifier, videos, VideoSettings(**cfg.video), inference, folder, work)
    if predictions is None:
        return
    predictions = replace(predictions, videos=timelines, unreadable=predictions.unreadable | problems)
    if not predictions.paths and not timelines:
        shutil.rmtree(folder / PARTS, ignore_errors=True)
        path, reason = next(iter(predictions.unreadable.items()))
        raise UserError(f"none of the {len(paths)} files can be read; {printable(path)} {reason}")
    predictions.write(folder)
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    predictions.print()
    (folder / "predictions.png").unlink(missing_ok=True)  # of an earlier command with the same folder
    if predictions.paths:
        draw_missing({"predictions.png": predictions.draw}, folder)


COMMAND = Command("predict", predict, positional="input", distributed=True, resume=check_resumable_prediction)

if __name__ == "__main__":
    sys.exit(main(COMMAND))
