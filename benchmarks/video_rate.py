"""How long a video takes to be predicted, against its decoding alone and the network alone on the same cores.

    python benchmarks/video_rate.py CKPT_PATH VIDEO [--every 0.5] [--rounds 3]

Each round measures the three in turn; the medians are printed, with the ratio to the slower one and to the sum of both.
On a CPU, decoding and network share the cores, so that the sum is what can be reached where both use all of them.
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable, Iterator

import torch
from hydra import compose, initialize_config_dir

from sports_lightning import CONF_DIR
from sports_lightning.inference.exported import open_classifier
from sports_lightning.videos.reader import Frame, read_frames, read_info
from sports_lightning.videos.sampling import Regular
from sports_lightning.videos.video_prediction import VideoSettings, frame_logits, predict_video


def seconds(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("ckpt_path")
    parser.add_argument("video")
    parser.add_argument("--every", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    classifier = open_classifier(options.ckpt_path)
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        inference = compose("predict").inference
    least, size = classifier.preprocessing.least_side, classifier.preprocessing.size
    frames = sum(1 for _ in read_frames(options.video, Regular(options.every), least))
    black = torch.zeros(3, *size, dtype=torch.uint8)

    def decode() -> None:
        for _ in read_frames(options.video, Regular(options.every), least):
            pass

    def still() -> Iterator[Frame]:
        return (Frame(i * options.every, black) for i in range(frames))

    measured: dict[str, list[float]] = {"decoding": [], "network": [], "predict": []}
    settings = VideoSettings(every=options.every)
    for _ in range(options.rounds):
        measured["decoding"].append(seconds(decode))
        measured["network"].append(seconds(lambda: frame_logits(classifier, still(), inference, frames)))
        measured["predict"].append(seconds(lambda: predict_video(classifier, options.video, settings, inference)))
    decoding, network, both = (statistics.median(each) for each in measured.values())
    info = read_info(options.video)
    print(f"{info.seconds:.0f} s of {info.width}×{info.height}, {frames} frames; {torch.get_num_threads()} threads")
    print(f"decoding {decoding:.1f} s, network {network:.1f} s, predict {both:.1f} s")
    print(f"{info.seconds / both:.0f} times as fast as it plays")
    print(f"{both / max(decoding, network):.2f} of the slower one, {both / (decoding + network):.2f} of the sum")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
