"""The files that `input` of predict names, and what their headers say."""

import glob
import importlib.util
import logging
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from sports_lightning.data.file_hashes import FileCheck, check_header, read_file, report_first_images
from sports_lightning.data.formats import has_further_images, open_image
from sports_lightning.data.image_folder import list_images
from sports_lightning.data.leftovers import LEFTOVER, describe_ignored, is_leftover
from sports_lightning.errors import UserError
from sports_lightning.inference.ranks import Ranks
from sports_lightning.storage.parallel import map_ahead, usable_cores
from sports_lightning.videos.pyav import require_av
from sports_lightning.videos.reader import is_video_name

log = logging.getLogger(__name__)


def find_inputs(patterns: Sequence[str]) -> list[str]:
    """The files that `input` names, each once. One line of the log counts the files in folders that are not read.

    Args:
        patterns: files, folders (the images and videos below them), or globs (`**` too).

    Raises:
        UserError: one of them names no images and no videos.
    """
    ignored: Counter[str] = Counter()
    found: dict[str, str] = {}  # by absolute path
    for pattern in patterns:
        paths = _matches(os.path.expanduser(pattern), ignored)
        if not paths:
            others = f" ({described})" if (described := describe_ignored(ignored)) else ""
            raise UserError(f"input={pattern} matches no images{others}: pass a file, a folder or a quoted glob")
        for path in paths:
            found.setdefault(os.path.abspath(path), path)
    if described := describe_ignored(ignored):
        log.info("skipped: %s", described)
    return list(found.values())


def _matches(pattern: str, ignored: Counter[str]) -> list[str]:
    if os.path.isfile(pattern):
        return [pattern]
    if os.path.isdir(pattern):
        return [os.path.join(pattern, name) for name in list_images(Path(pattern), ignored, is_wanted=is_video_name)]
    named = set(pattern.split(os.sep))
    files = sorted(path for path in glob.glob(pattern, recursive=True) if os.path.isfile(path))
    found = [path for path in files if not any(map(is_leftover, set(path.split(os.sep)) - named))]
    ignored[LEFTOVER] += len(files) - len(found)
    return found


def split_videos(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """The images and the videos among these files; a GIF with several images is a video.

    Without PyAV, a GIF is an image, and a warning counts the videos that are left out.

    Raises:
        UserError: there are only videos, and no PyAV.
    """
    videos = {
        path for path in paths if is_video_name(path) and (not path.lower().endswith(".gif") or _is_animated(path))
    }
    if videos and importlib.util.find_spec("av") is None:
        gifs = {path for path in videos if path.lower().endswith(".gif")}
        if len(videos) == len(paths) and not gifs:
            require_av()
        log.warning("%d videos are left out: they need PyAV, pip install -e '.[video]'", len(videos - gifs))
        return [path for path in paths if path not in videos - gifs], []
    return [path for path in paths if path not in videos], [path for path in paths if path in videos]


def _is_animated(path: str) -> bool:
    try:
        with open_image(read_file(path)) as image:
            return has_further_images(image)
    except Exception:  # Pillow raises a dozen types; it is reported as an image
        return False


def find_high_depths(paths: Sequence[str], ranks: Ranks) -> dict[str, FileCheck]:
    """The images of more than 8 bits among these files, by path. One line of the log counts animations.

    Args:
        paths: the files; those that cannot be read are left out.
        ranks: the processes that share the work.
    """
    mine = ranks.share(paths)
    checks = zip(mine, map_ahead(check_header, mine, usable_cores()), strict=True)
    found: dict[str, FileCheck] = {}
    for of_rank in ranks.gather({path: check for path, check in checks if check}):
        found |= of_rank
    report_first_images(found.values())
    return {path: found[path] for path in paths if path in found and found[path].high_depth}
