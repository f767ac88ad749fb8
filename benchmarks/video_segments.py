"""Segments of videos with known content: how well they are found, with smoothing and frame by frame.

    python benchmarks/video_segments.py CKPT_PATH IMAGES [--none FOLDER] [--videos 20] [--seed 0] [--every 0.5]
        [--crop-mode squash] [--set segment_seconds=12 …] [--keep FOLDER]

IMAGES has a folder per class, such as the test split, or data/sample/test; square images are stretched to 3:2. Each
video is 1 to 2 minutes long: pans and zooms over images, 2 to 20 s per class (several images of one class follow each
other), hard cuts, cross-fades, black, titles, and images of none of the classes (drawn patterns, and those in
`--none`), at 24, 29.97 and variable rates, encoded by x264. Prints for both methods: F1 of segments at IoU 0.5, the
median error of the boundaries that were found, and the share of time that has the right label. With `--set`, a
parameter of `SmoothingSettings` is changed: to choose them, use the validation split.
"""

import argparse
import dataclasses
import random
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from hydra import compose, initialize_config_dir
from PIL import Image, ImageDraw

from sports_lightning import CONF_DIR
from sports_lightning.data.decode import decode
from sports_lightning.data.image_folder import list_images
from sports_lightning.evaluate.decisions import NONE_OF_THESE, rejection_scores
from sports_lightning.inference.exported import open_classifier
from sports_lightning.storage.files import checkpoint_digest
from sports_lightning.videos.reader import read_frames, read_info
from sports_lightning.videos.sampling import Sampling, edges_between
from sports_lightning.videos.segments import Segment, find_segments
from sports_lightning.videos.smoothing import SmoothingSettings, find_cuts, smooth
from sports_lightning.videos.video_prediction import Seen, VideoSettings, choose_sampling, frame_logits

SIZE = (640, 360)
RATES = ("24", "30000/1001", "variable")


def draw_none(draws: random.Random, others: Sequence[Path]) -> Image.Image:
    """An image of none of the classes: one of `others`, black, a title, noise or a pattern."""
    kind = draws.choice(["black", "title", "noise", "pattern", *(["other"] * 4 if others else [])])
    if kind == "other":
        return Image.open(draws.choice(others)).convert("RGB")
    image = Image.new("RGB", SIZE, draws.choice(["black", "navy", "white", "gray"]) if kind != "black" else "black")
    pen = ImageDraw.Draw(image)
    if kind == "title":
        pen.text((60, 150), "".join(draws.choices("ABCDEFGHIJ KLMN", k=14)), fill="orange", font_size=44)
    if kind == "noise":
        pixels = np.random.default_rng(draws.randrange(10**6)).integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)
        return Image.fromarray(pixels)
    if kind == "pattern":
        for _ in range(40):
            x, y = draws.randrange(SIZE[0]), draws.randrange(SIZE[1])
            pen.rectangle((x, y, x + draws.randrange(120), y + draws.randrange(90)), fill=draws.choice(["red", "teal"]))
    return image


def as_photograph(image: Image.Image) -> Image.Image:
    """A square image, as datasets publish photographs, in the shape that most of them had."""
    return image.resize((image.width * 3 // 2, image.height)) if image.width == image.height else image


def view(image: Image.Image, progress: float, direction: tuple[float, float, float]) -> np.ndarray:
    """A pan and zoom over an image: (height, width, 3) uint8."""
    zoom = 1 - 0.15 * abs(direction[2]) * (progress if direction[2] > 0 else 1 - progress)
    ratio = SIZE[0] / SIZE[1]
    width = min(image.width, image.height * ratio) * zoom
    height = width / ratio
    x = (image.width - width) * (0.5 + direction[0] * (progress - 0.5))
    y = (image.height - height) * (0.5 + direction[1] * (progress - 0.5))
    return np.asarray(image.resize(SIZE, Image.Resampling.BILINEAR, (x, y, x + width, y + height)))


def plan_video(
    images: dict[str, list[Path]], others: Sequence[Path], draws: random.Random
) -> list[tuple[str, float, list[Image.Image]]]:
    """(label, seconds, images) of each segment."""
    plan: list[tuple[str, float, list[Image.Image]]] = []
    while sum(seconds for _, seconds, _ in plan) < 90:
        label = NONE_OF_THESE if draws.random() < 0.25 else draws.choice(sorted(images))
        if plan and label == plan[-1][0]:
            continue
        seconds = draws.uniform(2, 20) if label != NONE_OF_THESE else draws.uniform(2, 8)
        count = max(1, round(seconds / draws.uniform(2, 6)))
        if label == NONE_OF_THESE:
            shots = [draw_none(draws, others) for _ in range(count)]
        else:
            chosen = draws.sample(images[label], min(count, len(images[label])))
            shots = [as_photograph(Image.fromarray(decode(path).permute(1, 2, 0).numpy())) for path in chosen]
        plan.append((label, seconds, shots))
    return plan


def render(
    plan: Sequence[tuple[str, float, list[Image.Image]]], rate: str, draws: random.Random
) -> Iterator[tuple[float, np.ndarray]]:
    """(seconds, pixels) of each frame; some cuts are cross-fades of half a second."""
    shots = []
    start = 0.0
    for _, seconds, images in plan:
        for i, image in enumerate(images):
            begin, end = start + seconds * i / len(images), start + seconds * (i + 1) / len(images)
            direction = (draws.uniform(-1, 1), draws.uniform(-1, 1), draws.uniform(-1, 1))
            shots.append((begin, end, image, direction, draws.random() < 0.3))
        start += seconds
    time, number = 0.0, 0
    while time < start:
        while time >= shots[number][1]:
            number += 1
        begin, end, image, direction, _ = shots[number]
        pixels = view(image, (time - begin) / (end - begin), direction)
        if number + 1 < len(shots) and shots[number + 1][4] and end - time < 0.25:
            other = view(shots[number + 1][2], 0.0, shots[number + 1][3])
            share = 0.5 - (end - time) * 2
            pixels = ((1 - share) * pixels + share * other).astype(np.uint8)
        if number and shots[number][4] and time - begin < 0.25:
            other = view(shots[number - 1][2], 1.0, shots[number - 1][3])
            share = 0.5 - (time - begin) * 2
            pixels = ((1 - share) * pixels + share * other).astype(np.uint8)
        yield time, pixels
        time += draws.uniform(0.02, 0.09) if rate == "variable" else float(1 / Fraction(rate))


def write_video(frames: Iterator[tuple[float, np.ndarray]], rate: str, path: Path) -> None:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(25) if rate == "variable" else Fraction(rate))
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.options = {"preset": "veryfast", "crf": "23"}
        stream.codec_context.time_base = stream.time_base = Fraction(1, 90000)
        for seconds, pixels in frames:
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts, frame.time_base = round(90000 * seconds), Fraction(1, 90000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def score(found: Sequence[Segment], truth: Sequence[Segment]) -> tuple[int, list[float], float]:
    """Matches at IoU 0.5, errors of their boundaries in seconds, and seconds with the right label."""
    matches, errors, right = 0, [], 0.0
    for segment in found:
        for other in truth:
            overlap = min(segment.end, other.end) - max(segment.start, other.start)
            if overlap > 0 and segment.label == other.label:
                right += overlap
                union = max(segment.end, other.end) - min(segment.start, other.start)
                if overlap / union >= 0.5:
                    matches += 1
                    errors += [abs(segment.start - other.start), abs(segment.end - other.end)]
    return matches, errors, right


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt_path")
    parser.add_argument("images", type=Path)
    parser.add_argument("--none", type=Path)
    parser.add_argument("--videos", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--every", type=lambda every: every if every == "shot" else float(every), default=0.5)
    parser.add_argument("--crop-mode")
    parser.add_argument("--set", nargs="*", default=[])
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    changed = {key: float(value) for key, value in (each.split("=") for each in options.set)}
    smoothing = dataclasses.replace(SmoothingSettings(), **changed)
    images: dict[str, list[Path]] = {}
    for name in list_images(options.images):
        images.setdefault(name.split("/")[0], []).append(options.images / name)
    others = [options.none / name for name in list_images(options.none)] if options.none else []
    classifier = open_classifier(options.ckpt_path)
    classifier.set_crop_mode(options.crop_mode)
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        inference = compose("predict").inference
    settings = VideoSettings(every=options.every)
    totals: dict[str, list[tuple[int, int, int, list[float], float, float]]] = {"smoothed": [], "frame by frame": []}
    for number in range(options.videos):
        draws = random.Random(1000 * options.seed + number)
        rate = RATES[number % 3]
        plan = plan_video(images, others, draws)
        with tempfile.TemporaryDirectory() as temporary:
            path = (options.keep or Path(temporary)) / f"{options.seed}-{number:03d}.mp4"
            if not path.exists():
                write_video(render(plan, rate, draws), rate, path)
            seen, info, sampling = Seen(), read_info(str(path)), choose_sampling(str(path), settings)

            def watched(path: Path = path, seen: Seen = seen, sampling: Sampling = sampling) -> Iterator:
                for frame in read_frames(str(path), sampling, classifier.preprocessing.least_side):
                    seen.add(frame)
                    yield frame

            cached = path.with_suffix(
                f".{options.every}-{checkpoint_digest(options.ckpt_path)[:8]}{options.crop_mode or ''}.npz"
            )
            if options.keep and cached.exists():
                stored = np.load(cached)
                probabilities, scores, small = stored["probabilities"], stored["scores"], stored["small"]
                seen.seconds = stored["seconds"].tolist()
            else:
                logits = frame_logits(classifier, watched(), inference, sampling.count(info.seconds))
                probabilities = logits.double().softmax(dim=1).numpy()
                scores = rejection_scores(classifier.rejection, logits).numpy()  # type: ignore[arg-type]
                small = np.stack(seen.small)
                if options.keep:
                    np.savez(cached, probabilities=probabilities, scores=scores, small=small, seconds=seen.seconds)
        truth, start = [], 0.0
        for label, seconds, _ in plan:
            truth.append(Segment(start, start + seconds, label, 1.0, 0))
            start += seconds
        by_frame = np.where(scores < settings.reject, probabilities.shape[1], probabilities.argmax(axis=1))
        edges = edges_between(seen.seconds, info.seconds, sampling.starts)
        spans = sampling.spans(edges)
        cuts = np.isin(edges[:-1], sampling.starts) if sampling.starts else find_cuts(small)
        smoothed = smooth(probabilities, scores, cuts, spans, smoothing, settings.reject)
        for name, states, least in (("smoothed", smoothed, settings.min_segment), ("frame by frame", by_frame, 0.0)):
            found = find_segments(states, probabilities, list(classifier.spec.classes), edges, spans, least)
            totals[name].append((len(found), len(truth), *score(found, truth), start))
    for name, rows in totals.items():
        found, true, matched = (sum(row[i] for row in rows) for i in range(3))
        errors = [error for row in rows for error in row[3]]
        right = sum(row[4] for row in rows) / sum(row[5] for row in rows)
        f1s = [2 * row[2] / (row[0] + row[1]) for row in rows]
        spread = statistics.stdev(f1s) / len(f1s) ** 0.5 if len(f1s) > 1 else 0.0
        print(
            f"{name}: F1 {2 * matched / (found + true):.3f} (standard error over videos {spread:.3f}), median boundary "
            f"error {statistics.median(errors):.3f} s, right label {right:.3f} of the time; {found} segments for {true}"
        )


if __name__ == "__main__":
    main()
