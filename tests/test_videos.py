"""Videos: frames at the right times, segments over time, and the files that show them."""

import csv
import dataclasses
import io
import json
import shutil
import struct
import sys
from collections.abc import Callable, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from browser import CHROMIUM, browser
from commands import run_command, try_command
from sports_lightning.errors import UserError
from sports_lightning.predict import inputs
from sports_lightning.videos import packets
from sports_lightning.videos.chapter_files import clock, time_code, write_copy, write_edl, write_ffmetadata, write_vtt
from sports_lightning.videos.reader import read_frames, read_info
from sports_lightning.videos.sampling import PerShot, Regular, edges_between
from sports_lightning.videos.segments import Segment, Timeline, find_segments
from sports_lightning.videos.smoothing import SmoothingSettings, find_cuts, smooth

av = pytest.importorskip("av")

SIZE = (160, 96)


def gray(number: int) -> np.ndarray:
    """A frame whose brightness tells its number."""
    return np.full((SIZE[1], SIZE[0], 3), 4 * number + 2, dtype=np.uint8)


def draw_video(path: Path, times: Sequence[float], pixels: Callable[[int], np.ndarray] = gray, **options: Any) -> Path:
    """A video whose frame i is shown from `times[i]` on."""
    keyframes = options.pop("keyframes", 12)
    container_options = options.pop("container", {})
    codec = options.pop("codec", {".webm": "libvpx-vp9", ".avi": "ffv1", ".gif": "gif"}.get(path.suffix, "libx264"))
    base = Fraction(1, 100) if codec == "gif" else Fraction(1, 25) if codec == "ffv1" else Fraction(1, 90000)
    with av.open(str(path), "w", options=container_options) as container:
        stream = container.add_stream(codec, rate=25)
        first = pixels(0)
        stream.width, stream.height = first.shape[1], first.shape[0]
        stream.pix_fmt = "rgb8" if codec == "gif" else "yuv420p"
        stream.gop_size = keyframes
        stream.codec_context.time_base = stream.time_base = base
        quality = {"crf": "4"} if codec == "libx264" else {"crf": "10", "b": "0"} if "vpx" in codec else {}
        stream.options = quality | options
        for i, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(pixels(i), format="rgb24")
            frame.pts, frame.time_base = round(time / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def draw_match(few: Path, path: Path) -> list[Path]:
    """A video that shows an image for four seconds, and one of another class for another four; returns the images."""
    photos = [next(folder.glob("*.jpg")) for folder in sorted((few / "test").iterdir())[:2]]
    shots = [np.asarray(Image.open(photo).resize(SIZE)) for photo in photos]
    draw_video(path, [i / 10 for i in range(80)], lambda i: shots[i >= 40])
    return photos


def numbers(path: Path, every: float) -> list[tuple[float, int]]:
    """(sampled time, number of the frame that is shown)."""
    return [
        (round(frame.seconds, 6), round((float(frame.image.float().mean()) - 2) / 4))
        for frame in read_frames(str(path), Regular(every), 32)
    ]


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm", ".avi"])
@pytest.mark.parametrize("every", [0.04, 0.5, 0.3])
def test_frames_are_those_shown_at_the_sampled_times(tmp_path: Path, suffix: str, every: float) -> None:
    path = draw_video(tmp_path / f"video{suffix}", [i / 25 for i in range(50)])
    found = numbers(path, every)
    assert [time for time, _ in found] == pytest.approx([k * every for k in range(len(found))])
    assert len(found) == -(-200 // round(100 * every))
    for time, number in found:
        assert number == int(time * 25 + 1e-6)
    assert read_info(str(path)).seconds == pytest.approx(2.0, abs=0.05)


def test_variable_frame_rates(tmp_path: Path) -> None:
    times = [0, 0.02, 0.9, 0.95, 1.7, 2.5, 2.52, 2.54, 4.0]
    path = draw_video(tmp_path / "video.mkv", times, keyframes=3)
    for time, number in numbers(path, 0.25):
        assert number == max(i for i, start in enumerate(times) if start <= time + 1e-3)


def test_only_what_is_needed_is_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = draw_video(tmp_path / "video.mp4", [i / 25 for i in range(60)], keyframes=1)
    decoded: list[int] = []
    from sports_lightning.videos import reader

    shown = reader._shown

    def counted(frames: Any, sampling: Any) -> Any:
        return shown((decoded.append(1) or frame for frame in frames), sampling)

    monkeypatch.setattr(reader, "_shown", counted)
    assert [number for _, number in numbers(path, 1.0)] == [0, 25, 50]
    assert len(decoded) < 15, "of 60"


@pytest.mark.parametrize("every", [0.04, 0.3, 0.5, 1.1])
@pytest.mark.parametrize("most", [7, 600])
def test_frames_that_no_other_is_predicted_from_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: float, most: int
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    times = [i / 25 for i in range(60)]
    path = draw_video(tmp_path / "video.mp4", times, lambda i: np.roll(noise, i, 1), keyframes=30, bf="3", crf="20")
    monkeypatch.setattr(packets, "_MOST_PACKETS", most)
    with av.open(str(path)) as container:
        decoded = sum(1 for _ in packets.decoded_frames(container, container.streams.video[0], Regular(every)))
    assert decoded == 60 if every == 0.04 else decoded < 50
    some = list(read_frames(str(path), Regular(every), 32))
    monkeypatch.setattr(packets, "_wanted", lambda *_: None)
    every_one = list(read_frames(str(path), Regular(every), 32))
    assert [frame.seconds for frame in some] == [frame.seconds for frame in every_one]
    for one, other in zip(some, every_one, strict=True):
        assert (one.image == other.image).all()


def test_a_video_that_does_not_start_at_zero(tmp_path: Path) -> None:
    path = draw_video(tmp_path / "video.mkv", [3 + i / 25 for i in range(50)])
    assert [number for _, number in numbers(path, 0.4)] == [0, 10, 20, 30, 40]


def test_times_count_from_the_start_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "late.mkv"
    with av.open(str(path), "w") as container:  # audio from the start, video from 1 s on
        audio, video = container.add_stream("aac", rate=44100), container.add_stream("libx264", rate=25)
        video.width, video.height, video.pix_fmt = *SIZE, "yuv420p"
        video.codec_context.time_base = video.time_base = Fraction(1, 90000)
        for i in range(130):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = 44100, 1024 * i
            container.mux(audio.encode(frame))
        container.mux(audio.encode())
        for i in range(50):
            frame = av.VideoFrame.from_ndarray(gray(i), format="rgb24")
            frame.pts, frame.time_base = 90000 + 3600 * i, Fraction(1, 90000)
            container.mux(video.encode(frame))
        container.mux(video.encode())
    found = dict(numbers(path, 0.5))
    assert (found[0.0], found[0.5], found[1.5], found[2.0]) == (0, 0, 12, 25)
    assert read_info(str(path)).seconds == pytest.approx(3.0, abs=0.1)


def test_a_trimmed_video_begins_where_it_was_cut(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = draw_video(tmp_path / "trimmed.mp4", [i / 25 for i in range(60)], keyframes=1000, bf="3")
    with av.open(str(path)) as container:
        second = int(1 / container.streams.video[0].time_base)
    content = bytearray(path.read_bytes())
    place = content.index(b"elst") + 16  # ISO/IEC 14496-12: the start of the first edit of a list of version 0
    (start,) = struct.unpack_from(">i", content, place)
    struct.pack_into(">i", content, place, start + round(1.2 * second))
    path.write_bytes(content)
    assert numbers(path, 0.4) == [(0.0, 30), (0.4, 40), (0.8, 50)]
    assert not caplog.records


def test_time_stamps_that_go_back_are_counted_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parts = [
        draw_video(tmp_path / f"{i}.ts", [k / 25 for k in range(25)], lambda k, i=i: gray(k + 25 * i)) for i in range(2)
    ]
    path = tmp_path / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    found = numbers(path, 0.2)
    assert [number for _, number in found] == pytest.approx([5 * i for i in range(len(found))], abs=2)
    assert len(found) >= 9
    assert "time stamps go back at" in caplog.text


def test_a_long_group_of_pictures_is_decoded_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packets, "_MOST_PACKETS", 10)
    path = draw_video(tmp_path / "video.mp4", [i / 25 for i in range(60)], keyframes=1000)
    assert numbers(path, 1.0) == [(0.0, 0), (1.0, 25), (2.0, 50)]


@pytest.mark.parametrize("seed", range(6))
def test_damaged_videos_end_in_frames_or_one_line(tmp_path: Path, seed: int) -> None:
    random = np.random.default_rng(seed)
    for suffix in (".mkv", ".mp4", ".avi"):
        path = draw_video(tmp_path / f"video{suffix}", [i / 25 for i in range(40)])
        content = bytearray(path.read_bytes())
        start = 0 if seed % 2 else 300
        for place in random.integers(start, len(content), 8 if seed % 2 else 400):
            content[place] = int(random.integers(256))
        path.write_bytes(content)
        frames: list[Any] = []
        said = ""
        try:
            frames = list(read_frames(str(path), Regular(0.2), 32))
        except UserError as error:
            said = str(error)
        assert frames or path.name in said


@pytest.mark.parametrize(
    ("matrix", "bright"),
    [((0, 1, -1, 0), "top"), ((0, -1, 1, 0), "bottom"), ((-1, 0, 0, -1), "right"), ((1, 0, 0, 1), "left")],
)
def test_a_rotated_video_is_turned(tmp_path: Path, matrix: tuple[int, ...], bright: str) -> None:
    def halves(_: int) -> np.ndarray:
        pixels = np.zeros((96, 160, 3), dtype=np.uint8)
        pixels[:, :80] = 255
        return pixels

    path = draw_video(tmp_path / "turned.mp4", [i / 25 for i in range(10)], halves)
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 44  # ISO/IEC 14496-12: the matrix of a track header of version 0
    (a, b, c, d), one = matrix, 1 << 16
    assert struct.unpack_from(">9i", content, place) == (one, 0, 0, 0, one, 0, 0, 0, 1 << 30)
    struct.pack_into(">9i", content, place, a * one, b * one, 0, c * one, d * one, 0, 0, 0, 1 << 30)
    path.write_bytes(content)
    image = next(read_frames(str(path), Regular(1.0), 32)).image.float().mean(dim=0)
    parts = {
        "top": image[: len(image) // 2], "bottom": image[len(image) // 2 :],
        "right": image[:, image.shape[1] // 2 :], "left": image[:, : image.shape[1] // 2],
    }  # fmt: skip
    assert max(parts, key=lambda name: float(parts[name].mean())) == bright
    assert (image.shape[0] > image.shape[1]) == (a == 0)


@pytest.mark.parametrize(("rows", "scale"), [(96, 1), (144, 2), (216, 3)])
def test_one_field_of_an_interlaced_video_is_shown(tmp_path: Path, rows: int, scale: int) -> None:
    pixels = np.zeros((rows, 256, 3), dtype=np.uint8)
    pixels[::2] = 255  # at one moment everything is white, at the other black
    options = {"x264-params": "interlaced=1:tff=1"}
    path = draw_video(tmp_path / "a.mp4", [i / 25 for i in range(3)], lambda _: pixels, **options)
    (frame,) = read_frames(str(path), Regular(1.0), 72)
    assert frame.image.shape == (3, rows // scale, 256 // scale)
    assert frame.image.float().mean() > 245


def test_a_playlist_opens_no_other_file(tmp_path: Path) -> None:
    secret = draw_video(tmp_path / "secret.ts", [i / 25 for i in range(50)])
    text = f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\n{secret}\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.m3u8").write_text(text)
    file: Any = io.BytesIO(text.encode())
    file.name = "list.m3u8"
    for source in (str(tmp_path / "list.m3u8"), file):
        with pytest.raises(UserError, match=r"list\.m3u8 cannot be read as a video"):
            list(read_frames(source, Regular(1.0), 32))


def test_a_name_with_a_colon_is_no_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    draw_video(tmp_path / "video.mp4", [0.0, 0.04]).rename("12:30.mp4")
    assert numbers(Path("12:30.mp4"), 1.0) == [(0.0, 0)]
    (tmp_path / "copy").mkdir()
    write_copy(Timeline("12:30.mp4", 0.08, 0.5, [Segment(0, 0.08, "judo", 1, 1)]), tmp_path / "copy")
    assert (tmp_path / "copy/12:30.mp4").exists()


def test_a_broken_end_is_where_the_video_ends(tmp_path: Path) -> None:
    path = draw_video(tmp_path / "video.mkv", [i / 25 for i in range(50)])
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 2 // 3])
    found = numbers(path, 0.2)
    assert 3 <= len(found) < 10
    for time, number in found:
        assert number == round(time * 25)


@pytest.mark.parametrize("name", ["text.mp4", "empty.mp4", "tail.mp4", "sound.mp4", "missing.mp4"])
def test_other_files_are_one_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name == "text.mp4":
        path.write_text("no video " * 100)
    elif name == "empty.mp4":
        path.touch()
    elif name == "tail.mp4":  # without its table of contents, which mp4 has at the end
        draw_video(path, [i / 25 for i in range(50)])
        path.write_bytes(path.read_bytes()[:-2000])
    elif name == "sound.mp4":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("aac", rate=44100)
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono")
            frame.sample_rate = 44100
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
    with pytest.raises(UserError) as error:
        list(read_frames(str(path), Regular(0.5), 32))
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_an_encrypted_video_is_one_line(tmp_path: Path) -> None:
    key = {"encryption_scheme": "cenc-aes-ctr", "encryption_key": "00" * 16, "encryption_kid": "11" * 16}
    path = draw_video(tmp_path / "secret.mp4", [i / 25 for i in range(50)], container=key)
    with pytest.raises(UserError, match=r"secret.mp4 is encrypted"):
        list(read_frames(str(path), Regular(0.5), 32))


def one_hot(states: Sequence[int], classes: int, sure: float = 0.9) -> np.ndarray:
    probabilities = np.full((len(states), classes), (1 - sure) / (classes - 1))
    probabilities[np.arange(len(states)), states] = sure
    return probabilities


def test_smoothing_removes_a_frame_that_differs() -> None:
    states = [0] * 10 + [1] + [0] * 10 + [2] * 10
    probabilities = one_hot(states, 4, 0.8)
    smoothed = smooth(probabilities, None, np.zeros(31, bool), np.full(31, 0.5), SmoothingSettings(), None)
    assert smoothed.tolist() == [0] * 21 + [2] * 10


def test_low_scores_become_none_of_these() -> None:
    probabilities = np.full((20, 4), 0.25)
    scores = np.full(20, 0.001)
    probabilities[:10], scores[:10] = one_hot([0] * 10, 4), 0.6
    none = np.zeros(20, bool)
    assert (
        smooth(probabilities, scores, none, np.full(20, 0.5), SmoothingSettings(), 0.05).tolist() == [0] * 10 + [4] * 10
    )
    assert 4 not in smooth(probabilities, scores, none, np.full(20, 0.5), SmoothingSettings(), None)


def test_a_cut_makes_a_switch_cheap() -> None:
    probabilities = one_hot([0] * 6 + [1] * 3 + [0] * 6, 4, 0.8)
    cuts = np.zeros(15, bool)
    settings = SmoothingSettings(segment_seconds=60, independent_seconds=1.0)
    assert smooth(probabilities, None, cuts, np.full(15, 0.5), settings, None).tolist() == [0] * 15
    cuts[[6, 9]] = True
    assert smooth(probabilities, None, cuts, np.full(15, 0.5), settings, None).tolist() == [0] * 6 + [1] * 3 + [0] * 6


def test_cuts_are_where_all_colors_change() -> None:
    shots = np.repeat(np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8, 3)), 5, axis=1).reshape(15, 8, 8, 3)
    assert np.flatnonzero(find_cuts(shots.astype(np.uint8))).tolist() == [5, 10]


def test_steps_longer_than_any_segment(tmp_path: Path) -> None:
    assert smooth(
        one_hot([0, 1], 3), None, np.zeros(2, bool), np.full(2, 1000.0), SmoothingSettings(), None
    ).tolist() == [0, 1]


def test_every_shot_is_looked_at_and_a_long_one_several_times() -> None:
    sampling = PerShot([0.0, 1.0, 3.0], 15.0)
    assert sampling.times == [0.5, 2.0, 5.0, 9.0, 13.0]
    assert [sampling.first_from(seconds) for seconds in (0, 0.5, 0.6, 13.5)] == [0.5, 0.5, 2.0, float("inf")]
    edges = edges_between(sampling.times, 15.0, sampling.starts)
    assert edges.tolist() == [0, 1, 3, 7, 11, 15]
    assert sampling.spans(edges).tolist() == [1, 2, 4, 4, 4]
    assert edges_between([0.5, 5.0], 15.0, sampling.starts).tolist() == [0, 3, 15], "a frame could not be decoded"


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_shots_begin_where_the_camera_cuts(tmp_path: Path, suffix: str) -> None:
    pytest.importorskip("scenedetect")
    from sports_lightning.videos.shots import find_shots

    scenes = np.random.default_rng(0).integers(0, 256, (3, 12, 20, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    times = [i / 25 for i in range(120)]
    if suffix == ".mp4":
        times = [time if time < 2 else 2 * time - 2 for time in times]  # the rate halves after two seconds
    path = draw_video(tmp_path / f"video{suffix}", times, lambda i: scenes[(i >= 30) + (i >= 80)])
    shots = find_shots(str(path))
    assert shots.starts == pytest.approx([0.0, times[30], times[80]], abs=1e-3)
    assert shots.seconds == pytest.approx(times[-1], abs=0.1)


def test_short_segments_join_the_neighbour_that_fits() -> None:
    states = np.array([0, 0, 0, 1, 2, 2, 2])
    probabilities = one_hot(states.tolist(), 3)
    probabilities[3] = [0.1, 0.5, 0.4]
    edges = edges_between([0.5 * i for i in range(7)], 3.4, ())
    found = find_segments(states, probabilities, ["a", "b", "c"], edges, np.full(7, 0.5), 1.0)
    assert [(segment.label, segment.start, segment.end) for segment in found] == [("a", 0.0, 1.25), ("c", 1.25, 3.4)]
    assert found[0].probability == pytest.approx(0.9)


TIMELINE = Timeline(
    "match & more.mp4",
    3725.5,
    0.5,
    [Segment(0.0, 62.25, "judo", 0.9, 124), Segment(62.25, 3725.5, "a <b>; c=d # -->", 0.5, 7327)],
)


def test_chapters_for_players_and_editors(tmp_path: Path) -> None:
    write_vtt(TIMELINE, tmp_path / "a.vtt")
    assert (tmp_path / "a.vtt").read_text() == (
        "WEBVTT\n\n00:00:00.000 --> 00:01:02.250\njudo\n\n00:01:02.250 --> 01:02:05.500\na &lt;b&gt;; c=d # --&gt;\n"
    )
    write_ffmetadata(TIMELINE, tmp_path / "a.ffmetadata")
    assert "START=62250\nEND=3725500\ntitle=a <b>\\; c\\=d \\# -->\n" in (tmp_path / "a.ffmetadata").read_text()
    write_edl(TIMELINE, 30000 / 1001, tmp_path / "a.edl")
    assert "002  AX       V     C        00:01:02:06 01:02:01:23 00:01:02:06" in (tmp_path / "a.edl").read_text()
    assert time_code(3600, 25) == "01:00:00:00"
    assert clock(0.9996) == "00:00:01.000"


@pytest.mark.parametrize("suffix", [".mp4", ".mov", ".mkv", ".webm"])
def test_a_copy_with_chapters_keeps_its_streams(tmp_path: Path, suffix: str) -> None:
    path = draw_video(tmp_path / f"video{suffix}", [i / 25 for i in range(50)])
    timeline = Timeline(str(path), 2.0, 0.5, [Segment(0, 1.25, "judo", 1, 3), Segment(1.25, 2, "b; c", 1, 1)])
    (tmp_path / "copy").mkdir()
    write_copy(timeline, tmp_path / "copy")
    with av.open(str(tmp_path / "copy" / path.name)) as copy, av.open(str(path)) as original:
        chapters = copy.chapters()
        assert [chapter["metadata"]["title"] for chapter in chapters] == ["judo", "b; c"]
        assert float(chapters[1]["start"] * chapters[1]["time_base"]) == 1.25
        packets = [[bytes(packet) for packet in each.demux(video=0) if packet.size] for each in (copy, original)]
        assert packets[0] == packets[1]


@pytest.mark.parametrize(("name", "other"), [("a.mkv", "hearing_impaired"), ("a.mp4", "attached_pic")])
def test_a_copy_with_chapters_keeps_what_streams_are_for(tmp_path: Path, name: str, other: str) -> None:
    with av.open(str(tmp_path / name), "w") as container:
        for disposition in ("default", other):
            is_cover = disposition == "attached_pic"
            stream = container.add_stream("mjpeg" if is_cover else "mpeg4", rate=25)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuvj420p" if is_cover else "yuv420p"
            stream.disposition = av.stream.Disposition[disposition]
        for stream in container.streams:
            for number in range(1 if stream.name == "mjpeg" else 5):
                frame = av.VideoFrame.from_ndarray(np.zeros((48, 64, 3), dtype=np.uint8), format="rgb24")
                frame.pts = number
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
    (tmp_path / "copy").mkdir()
    write_copy(Timeline(str(tmp_path / name), 0.2, 0.5, [Segment(0, 0.2, "judo", 1, 1)]), tmp_path / "copy")
    with av.open(str(tmp_path / "copy" / name)) as copy, av.open(str(tmp_path / name)) as original:
        kept, before = ([int(stream.disposition) for stream in each.streams.video] for each in (copy, original))
    assert kept == before
    assert len(set(kept)) > 1


@pytest.mark.parametrize("suffix", [".avi", ".gif"])
def test_a_format_without_chapters_is_one_line(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(UserError, match="is of a format without chapters"):
        write_copy(Timeline(f"x{suffix}", 1, 1, []), tmp_path)


# The whole command.


@pytest.fixture(scope="module")
def footage(few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a video of two classes, an animated GIF, a text named like a video, and an image."""
    folder = tmp_path_factory.mktemp("footage")
    photo, _ = draw_match(few, folder / "match.mp4")
    shot = np.asarray(Image.open(photo).resize(SIZE))
    draw_video(folder / "short.gif", [i / 10 for i in range(20)], lambda _: shot)
    (folder / "broken.mp4").write_text("no video")
    shutil.copy(photo, folder / "photo.jpg")
    return folder


@pytest.fixture(scope="module")
def watched(footage: Path, trained: tuple[Path, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of a prediction of `footage`. Tests must not change it."""
    run = tmp_path_factory.mktemp("watched") / "run"
    run_command("predict", f"ckpt_path={trained[0]}", str(footage), f"hydra.run.dir={run}", "video.reject=null")
    return run


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_videos_are_rows_of_the_predictions(watched: Path, footage: Path) -> None:
    rows = {Path(row["path"]).name: row for row in rows_of(watched / "predictions.csv")}
    assert list(rows) == ["photo.jpg", "match.mp4", "short.gif", "broken.mp4"]
    assert rows["photo.jpg"]["shares"] == ""
    assert "cannot be read as a video" in rows["broken.mp4"]["error"]
    match = rows["match.mp4"]
    assert float(match["seconds"]) == pytest.approx(8.0, abs=0.2)
    shares = json.loads(match["shares"])
    assert sum(shares.values()) == pytest.approx(1.0, abs=1e-3)
    assert match["prediction"] == match["top1"] == next(iter(shares))
    segments = rows_of(watched / "videos/match/segments.csv")
    assert float(segments[0]["start"]) == 0.0
    for one, next_one in pairwise(segments):
        assert one["end"] == next_one["start"]
        assert one["label"] != next_one["label"]
    index = rows_of(watched / "videos.csv")
    assert [row["label"] for row in index if row["path"].endswith("match.mp4")] == [row["label"] for row in segments]
    files = {path.name for path in (watched / "videos/match").iterdir()}
    assert files == {
        *("segments.csv", "segments.json", "chapters.vtt", "chapters.ffmetadata", "segments.edl", "contact_sheet.jpg"),
        "index.html",
    }
    assert Image.open(watched / "videos/match/contact_sheet.jpg").width > 100


@pytest.mark.slow
def test_a_resumed_prediction_does_not_repeat_finished_videos(
    watched: Path, footage: Path, trained: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sports_lightning.predict import videos

    shutil.copytree(watched, tmp_path / "run")
    predicted: list[str] = []
    predict_video = videos.predict_video
    monkeypatch.setattr(
        videos, "predict_video", lambda _, path, *rest: predicted.append(path) or predict_video(_, path, *rest)
    )
    settings = [f"ckpt_path={trained[0]}", str(footage), f"hydra.run.dir={tmp_path / 'run'}"]
    run_command("predict", *settings, "video.reject=null")
    assert [Path(path).name for path in predicted] == ["broken.mp4"]
    assert (tmp_path / "run/predictions.csv").read_bytes() == (watched / "predictions.csv").read_bytes()
    run_command("predict", *settings, "video.reject=null", "video.every=0.25")
    assert len(predicted) == 4


def test_frames_of_other_sizes_have_shots_too(tmp_path: Path) -> None:
    """Recordings of two sizes in one transport stream."""
    pytest.importorskip("scenedetect")
    from sports_lightning.videos.shots import find_shots

    for name, side in (("a", 96), ("b", 192)):
        draw_video(
            tmp_path / f"{name}.ts", [i / 25 for i in range(40)], lambda i, n=side: np.full((n, n, 3), n, np.uint8)
        )
    joined = tmp_path / "joined.ts"
    joined.write_bytes((tmp_path / "a.ts").read_bytes() + (tmp_path / "b.ts").read_bytes())
    assert find_shots(str(joined)).starts[0] == 0.0
    assert find_shots(str(joined)).seconds > 2


def test_a_single_frame_is_a_shot(tmp_path: Path) -> None:
    pytest.importorskip("scenedetect")
    from sports_lightning.videos.shots import find_shots

    shots = find_shots(str(draw_video(tmp_path / "one.mkv", [0.0])))
    assert shots.starts == [0.0]
    assert shots.seconds > 0
    edges = edges_between(shots.times, shots.seconds, shots.starts)
    states = smooth(one_hot([2], 4), None, np.zeros(1, bool), shots.spans(edges), SmoothingSettings(), None)
    assert states.tolist() == [2]
    assert smooth(one_hot([2], 4), None, np.zeros(1, bool), np.zeros(1), SmoothingSettings(), None).tolist() == [2]


@pytest.mark.slow
def test_a_video_is_predicted_shot_by_shot(trained: tuple[Path, str], few: Path, tmp_path: Path) -> None:
    pytest.importorskip("scenedetect")
    draw_match(few, tmp_path / "match.mp4")
    settings = [f"ckpt_path={trained[0]}", str(tmp_path / "match.mp4"), "video.reject=null", "video.min_segment=0"]
    run_command("predict", *settings, "video.every=shot", f"hydra.run.dir={tmp_path / 'shots'}")
    run_command("predict", *settings, f"hydra.run.dir={tmp_path / 'regular'}")
    shots, regular = (
        json.loads((tmp_path / run / "videos/match/segments.json").read_text()) for run in ("shots", "regular")
    )
    assert shots["every"] == "shot"
    assert [each["label"] for each in shots["segments"]] == [each["label"] for each in regular["segments"]]
    assert sum(each["frames"] for each in shots["segments"]) == 2, "instead of 16"
    assert [each["start"] for each in shots["segments"]][1:] == pytest.approx([4.0] * (len(shots["segments"]) - 1))
    assert shots["seconds"] == pytest.approx(8.0, abs=0.15)


def test_shots_need_a_package(
    trained: tuple[Path, str], few: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    draw_match(few, tmp_path / "match.mp4")
    result = try_command("predict", f"ckpt_path={trained[0]}", str(tmp_path / "match.mp4"), "video.every=shot")
    assert "video.every=shot needs PySceneDetect: pip install -e '.[shots]'" in result.stderr
    wrong = try_command("predict", f"ckpt_path={trained[0]}", str(tmp_path / "match.mp4"), "video.every=scene")
    assert "video.every=scene" in wrong.stderr


@pytest.mark.slow
def test_a_video_is_predicted_by_an_exported_file_too(
    footage: Path, watched: Path, trained: tuple[Path, str], tmp_path: Path
) -> None:
    pytest.importorskip("onnxruntime")
    run_command("export", f"ckpt_path={trained[0]}", f"hydra.run.dir={tmp_path / 'export'}")
    settings = [str(footage / "match.mp4"), f"hydra.run.dir={tmp_path / 'run'}", "video.reject=null"]
    run_command("predict", f"ckpt_path={tmp_path / 'export/model.onnx'}", *settings)
    found, expected = (rows_of(folder / "videos/match/segments.csv") for folder in (tmp_path / "run", watched))
    for one, other in zip(found, expected, strict=True):
        assert (one["label"], one["start"]) == (other["label"], other["start"])
        assert float(one["probability"]) == pytest.approx(float(other["probability"]), abs=1e-4)


def test_an_interrupted_prediction_of_videos_only_resumes(
    footage: Path, watched: Path, trained: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sports_lightning.predict import videos

    def fail(*_: object) -> None:
        raise RuntimeError("killed")

    inputs_ = f"[{footage / 'match.mp4'},{footage / 'short.gif'}]"
    settings = [f"ckpt_path={trained[0]}", f"input={inputs_}", f"hydra.run.dir={tmp_path / 'run'}", "video.reject=null"]
    with monkeypatch.context() as patch:
        patch.setattr(videos, "write_index", fail)
        with pytest.raises(RuntimeError, match="killed"):
            run_command("predict", *settings)
    monkeypatch.setattr(videos, "predict_video", fail)  # both are finished
    run_command("predict", f"resume={tmp_path / 'run'}")
    assert len(rows_of(tmp_path / "run/predictions.csv")) == 2


def test_a_duration_that_the_header_understates(
    footage: Path, trained: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sports_lightning.videos import video_prediction

    true = video_prediction.read_info
    monkeypatch.setattr(video_prediction, "read_info", lambda path: dataclasses.replace(true(path), seconds=2.0))
    settings = [str(footage / "match.mp4"), f"hydra.run.dir={tmp_path / 'run'}", "inference.precision=auto"]
    run_command("predict", f"ckpt_path={trained[0]}", *settings)
    segments = rows_of(tmp_path / "run/videos/match/segments.csv")
    assert all(float(row["end"]) > float(row["start"]) for row in segments)
    assert float(segments[-1]["end"]) == pytest.approx(8.0, abs=0.1)


def test_chapters_of_a_format_without_them_are_a_warning(
    footage: Path, trained: tuple[Path, str], tmp_path: Path
) -> None:
    settings = [str(footage / "short.gif"), f"hydra.run.dir={tmp_path / 'run'}", "video.chapters=true"]
    run_command("predict", f"ckpt_path={trained[0]}", *settings)
    assert "is of a format without chapters" in (tmp_path / "run/predict.log").read_text()
    assert (tmp_path / "run/videos/short/segments.json").exists()


def test_a_rejection_score_without_a_solution_is_one_line(tmp_path: Path) -> None:
    result = try_command("predict", "ckpt_path=x", "input=y", "video.reject=0.5", cwd=tmp_path)
    assert "video.reject=0.5 must be below 0.36" in result.stderr


def test_only_unreadable_videos_are_one_line(footage: Path, trained: tuple[Path, str], tmp_path: Path) -> None:
    result = try_command("predict", f"ckpt_path={trained[0]}", str(footage / "broken.mp4"), cwd=tmp_path)
    assert result.status == 1
    assert "broken.mp4 cannot be read as a video" in result.stderr.splitlines()[-1]


def test_without_pyav_videos_are_named_or_counted(
    footage: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(inputs.importlib.util, "find_spec", lambda _: None)
    paths = [str(footage / name) for name in ("match.mp4", "short.gif", "photo.jpg")]
    assert inputs.split_videos(paths) == (paths[1:], [])
    assert "1 videos are left out: they need PyAV, pip install -e '.[video]'" in caplog.text


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.slow
def test_the_page_plays_jumps_and_shows_chapters(watched: Path) -> None:
    segments = rows_of(watched / "videos/match/segments.csv")
    with browser() as page:
        for width, height, phone in ((1280, 900, False), (390, 844, True)):
            page.resize(width, height, phone=phone)
            page.open((watched / "videos/match/index.html").as_uri())
            page.wait("video.readyState >= 1")
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
            assert page.evaluate("video.textTracks[0].cues.length") == len(segments)
            page.evaluate("[...document.querySelectorAll('.segments button')].at(-1).click()")
            page.wait(f"Math.abs(video.currentTime - {segments[-1]['start']}) < 0.1")
            assert page.evaluate("document.getElementById('now').textContent") == segments[-1]["label"]
        page.open((watched / "videos.html").as_uri())
        assert page.evaluate("document.querySelectorAll('.video').length") == 2
        assert not page.errors()
