"""The shots of a video, by PySceneDetect."""

from typing import Any

from tqdm import tqdm

from sports_lightning.errors import import_extra
from sports_lightning.runs.console import shows_progress_bars
from sports_lightning.videos.reader import read_all_frames, read_info
from sports_lightning.videos.sampling import PerShot

_SIDE = 144  # pixels of the shorter side of the frames in which cuts are searched
_RATE = 25.0  # frames per second of PySceneDetect's clock, which only numbers the frames here


def require_scenedetect() -> Any:
    """The package PySceneDetect.

    Raises:
        UserError: it is not installed.
    """
    return import_extra("scenedetect", "video.every=shot needs PySceneDetect", "shots")


def find_shots(path: str) -> PerShot:
    """Find the cuts of the camera in a video, all of whose frames are decoded, and sample its shots.

    A cut is where colors change far more than in the frames around (PySceneDetect's AdaptiveDetector, defaults); a shot
    has 15 frames at least.

    Args:
        path: the file.

    Raises:
        UserError: PySceneDetect is not installed; not a video, or no frame can be decoded.
    """
    scenedetect = require_scenedetect()
    detector = scenedetect.AdaptiveDetector()
    times: list[float] = []
    starts = [0.0]
    end = 0.0
    info = read_info(path)
    bar: Any = tqdm(
        total=round(info.seconds),
        desc=f"shots of {path[-30:]}",
        unit="s",
        delay=2,
        leave=False,
        disable=None if shows_progress_bars() else True,
    )
    with bar:
        for seconds, until, pixels in read_all_frames(path, _SIDE):
            clock = scenedetect.FrameTimecode(len(times), _RATE)
            times.append(seconds)
            starts += [times[cut.frame_num] for cut in detector.process_frame(clock, pixels[:, :, ::-1])]
            end = max(end, until)
            bar.update(int(seconds) - bar.n)
    end = max(end, times[-1] + 1 / (info.rate or _RATE))  # the last frame may have no duration
    return PerShot(starts, end)
