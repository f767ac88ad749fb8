"""Plans, their application and their undoing: after a kill at any step, everything can be put back."""

import csv
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf
from PIL import Image

from browser import CHROMIUM, browser
from commands import run_command, try_command
from conftest import assert_error_line
from sports_lightning.cli.command import Command
from sports_lightning.cli.execute import execute
from sports_lightning.config.overrides import format_command
from sports_lightning.errors import UserError
from sports_lightning.organize import application, file_operations
from sports_lightning.organize.decisions_file import add_decisions, read_decisions, remove_decisions
from sports_lightning.organize.file_operations import MODES, digest_of
from sports_lightning.organize.journal import Journal
from sports_lightning.organize.operations import plan_operations, write_keywords
from sports_lightning.organize.plan import Plan, PlannedImage, place
from sports_lightning.organize.planning import check_folder_names
from sports_lightning.organize.sidecars import companion_target, find_companions
from sports_lightning.organize.targets import FreeNames, Pattern
from sports_lightning.runs.signals import Interrupted
from sports_lightning.storage.safe_names import safe_name, shortened

OLD = 1_500_000_000_123_456_789  # ns


def draw_library(folder: Path) -> None:
    """Files with sidecars, in folders, with modification times of their own."""
    for i in range(6):
        path = folder / f"day {i % 2}" / f"IMG_{i}.JPG"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"\xff\xd8\xff image %d" % i)
        if i % 2:
            path.with_suffix(".xmp").write_bytes(SIDECAR)
        if i == 2:
            path.with_suffix(".AAE").write_bytes(b"edits")
            path.with_name("IMG_2.mov").write_bytes(b"live photo")
    for i, path in enumerate(sorted(folder.rglob("*"), reverse=True)):
        path.chmod(0o700 if path.is_dir() else 0o640 if i % 2 else 0o600)
        os.utime(path, ns=(OLD + i, OLD + i))
    os.utime(folder, ns=(OLD, OLD))


SIDECAR = b"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
<rdf:Description rdf:about="" xmlns:xmp="http://ns.adobe.com/xap/1.0/" xmp:Rating="4"/></rdf:RDF></x:xmpmeta>"""


def snapshot(folder: Path) -> dict[str, tuple[object, ...]]:
    """Every entry below a folder: its kind, content and modification time."""
    found: dict[str, tuple[object, ...]] = {}
    for path in [folder, *folder.rglob("*")]:
        status = path.lstat()
        content: object = path.readlink() if path.is_symlink() else path.read_bytes() if path.is_file() else "folder"
        found[str(path.relative_to(folder))] = (content, status.st_mtime_ns, status.st_mode)
    return found


def make_plan(library: Path, to: Path, mode: str, tags: list[str]) -> Plan:
    """A plan that needs no network: the label of an image is the parity of its number."""
    names = sorted(str(path.relative_to(library)) for path in library.rglob("*.JPG"))
    companions = find_companions([str(library / name) for name in names]).of_image
    free, images = FreeNames(to), []
    for i, name in enumerate(names):
        label = ["judo", "unsure"][i % 3 == 2]
        own = dict.fromkeys(companions.get(str(library / name), []), "")
        image = PlannedImage(name, label, "judo", 0.9, 0.5, "sure" if label == "judo" else "unsure", companions=own)
        images.append(place(image, free, Pattern("{label}/{name}").target(label, name, None), tags))
    states: dict[str, list[int | str]] = {}
    for image in images:
        for path in (image.image, *(f"{os.path.dirname(image.image)}/{name}" for name in image.companions)):
            status = (library / path).stat()
            states[path] = [status.st_size, status.st_mtime_ns, digest_of(str(library / path))]
    return Plan(str(library), str(to), mode, "{label}/{name}", tags, states, images)


class Killed(BaseException):
    """The end of a process."""


@contextmanager
def killed_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """End the process before (even steps) or after (odd ones) a system call that changes names or flushes them."""
    count = itertools.count()

    def end_here() -> None:
        if next(count) == step:
            raise Killed

    def wrap(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            end_here()
            result = call(*arguments, **options)
            end_here()
            return result

        return wrapped

    with monkeypatch.context() as patch:
        for name in ("link", "unlink", "rename", "replace", "symlink", "mkdir", "fsync"):
            patch.setattr(os, name, wrap(getattr(os, name)))
        yield


def kill_at_every_step(
    prepare: Callable[[Path], object], act: Callable[[Path], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """Run folders in which `act` was killed, at one step later each time; in the last one it was not."""
    for step in itertools.count():
        run = tmp_path / f"run{step}"
        run.mkdir()
        prepare(run)
        is_killed = False
        with killed_at(step, monkeypatch):
            try:
                act(run)
            except Killed:
                is_killed = True
        yield run
        if not is_killed:
            return


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("tags", [[], ["xmp"]])
def test_whatever_a_killed_application_has_done_is_undone(
    tmp_path: Path, mode: str, tags: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    library, to = tmp_path / "library", tmp_path / "sorted"
    draw_library(library)
    before = snapshot(library)
    plans = {}

    def prepare(run: Path) -> None:
        plans[run] = make_plan(library, to, mode, tags)

    def act(run: Path) -> None:
        application.apply(Journal.of(to, plan_operations(plans[run])), run)

    for run in kill_at_every_step(prepare, act, tmp_path, monkeypatch):
        if (run / "journal.jsonl").exists():
            assert application.undo(run) == []
        assert snapshot(library) == before, f"killed in {run.name}"
        assert not to.exists(), f"killed in {run.name}"
    assert len(plans) > 21


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_a_killed_undo_is_undone_again(tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    library, to = tmp_path / "library", tmp_path / "sorted"
    draw_library(library)
    before = snapshot(library)

    def prepare(run: Path) -> None:
        application.apply(Journal.of(to, plan_operations(make_plan(library, to, mode, ["xmp"]))), run)

    count = 0
    for run in kill_at_every_step(prepare, application.undo, tmp_path, monkeypatch):
        if not (run / "undone").exists():
            assert application.undo(run) == []
        assert snapshot(library) == before, f"killed in {run.name}"
        assert not to.exists()
        count += 1
    assert count > 11


def test_an_applied_plan(tmp_path: Path) -> None:
    library, to = tmp_path / "library", tmp_path / "sorted"
    draw_library(library)
    before = snapshot(library)
    application.apply(Journal.of(to, plan_operations(make_plan(library, to, "move", ["xmp"]))), tmp_path)
    assert sorted(str(path.relative_to(to)) for path in to.rglob("*") if path.is_file()) == [
        *("judo/IMG_0.JPG", "judo/IMG_0.JPG.xmp", "judo/IMG_1.JPG", "judo/IMG_1.xmp", "judo/IMG_2.AAE"),
        *("judo/IMG_2.JPG", "judo/IMG_2.JPG.xmp", "judo/IMG_2.mov", "judo/IMG_3.JPG", "judo/IMG_3.xmp"),
        *("unsure/IMG_4.JPG", "unsure/IMG_5.JPG", "unsure/IMG_5.xmp"),
    ]
    assert (to / "judo/IMG_0.JPG").stat().st_mtime_ns == before["day 0/IMG_0.JPG"][1]
    assert b'xmp:Rating="4"' in (to / "judo/IMG_1.xmp").read_bytes()
    assert (to / "unsure/IMG_5.xmp").read_bytes() == SIDECAR, "images that it is unsure of get no keyword"
    assert not list(library.rglob("*.JPG"))


def test_what_has_changed_since_is_kept(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    library, to = tmp_path / "library", tmp_path / "sorted"
    draw_library(library)
    application.apply(Journal.of(to, plan_operations(make_plan(library, to, "copy", []))), tmp_path)
    (to / "judo/IMG_0.JPG").write_bytes(b"edited")
    (library / "day 1/IMG_1.JPG").unlink()
    kept = application.undo(tmp_path)
    assert len(kept) == 2
    assert (to / "judo/IMG_0.JPG").read_bytes() == b"edited"
    assert (to / "judo/IMG_1.JPG").exists(), "the only copy that is left"
    assert not (tmp_path / "undone").exists()


def test_a_moved_file_is_not_put_over_another(tmp_path: Path) -> None:
    library, to = tmp_path / "library", tmp_path / "sorted"
    draw_library(library)
    application.apply(Journal.of(to, plan_operations(make_plan(library, to, "move", []))), tmp_path)
    (library / "day 0/IMG_0.JPG").write_bytes(b"another")
    (kept,) = application.undo(tmp_path)
    assert "another file has taken its old place" in kept
    assert (to / "judo/IMG_0.JPG").exists()


@pytest.mark.parametrize("mode", MODES)
def test_nothing_is_overwritten(tmp_path: Path, mode: str) -> None:
    library, to = tmp_path / "library", tmp_path / "sorted"
    draw_library(library)
    plan = make_plan(library, to, mode, [])
    (to / "judo").mkdir(parents=True)
    (to / "judo/IMG_3.JPG").write_bytes(b"of another program")
    with pytest.raises(UserError, match=r"IMG_3.JPG exists: nothing is overwritten"):
        application.apply(Journal.of(to, plan_operations(plan)), tmp_path)
    assert sorted(path.name for path in to.rglob("*.*")) == ["IMG_3.JPG"]
    again = make_plan(library, to, mode, [])
    assert [image.target for image in again.images if image.conflict] == ["judo/IMG_3 (2).JPG"]


def test_a_source_that_changed_since_the_plan_stops_the_application(tmp_path: Path) -> None:
    library, to = tmp_path / "library", tmp_path / "sorted"
    draw_library(library)
    before = snapshot(library)
    plan = make_plan(library, to, "move", [])
    (library / "day 1/IMG_3.JPG").write_bytes(b"changed")
    with pytest.raises(UserError, match=r"IMG_3.JPG has changed since the plan: plan again"):
        application.apply(Journal.of(to, plan_operations(plan)), tmp_path)
    assert not to.exists()
    assert not (tmp_path / "journal.jsonl").exists()
    assert {path: state[0] for path, state in snapshot(library).items()} == {
        path: state[0] if path != "day 1/IMG_3.JPG" else b"changed" for path, state in before.items()
    }


@pytest.mark.skipif(shutil.disk_usage("/dev/shm").total < 2**20, reason="needs a second drive")
@pytest.mark.parametrize("mode", ["copy", "move", "symlink"])
def test_to_another_drive(tmp_path: Path, mode: str) -> None:
    library = tmp_path / "library"
    draw_library(library)
    before = snapshot(library)
    to = Path("/dev/shm", f"sports_lightning-test-{os.getpid()}")
    try:
        application.apply(Journal.of(to, plan_operations(make_plan(library, to, mode, ["xmp"]))), tmp_path)
        assert (to / "judo/IMG_0.JPG").read_bytes() == b"\xff\xd8\xff image 0"
        assert (to / "judo/IMG_0.JPG").stat().st_mtime_ns == before["day 0/IMG_0.JPG"][1]
        assert application.undo(tmp_path) == []
        assert snapshot(library) == before
        assert not to.exists()
    finally:
        shutil.rmtree(to, ignore_errors=True)


def test_a_drive_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(file_operations.os, "link", link)
    library, to = tmp_path / "library", tmp_path / "sorted"
    draw_library(library)
    before = snapshot(library)
    for mode in ("copy", "move"):
        run = tmp_path / mode
        run.mkdir()
        application.apply(Journal.of(to, plan_operations(make_plan(library, to, mode, ["xmp"]))), run)
        assert application.undo(run) == []
        assert snapshot(library) == before


def test_a_full_disk_is_said_before_anything_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library, to = tmp_path / "library", tmp_path / "sorted"
    draw_library(library)
    monkeypatch.setattr(application, "_free_bytes", lambda _: 2**20)
    with pytest.raises(UserError, match=r"not enough space: to=.* needs 0.0 MB, and 1.0 MB are free"):
        application.apply(Journal.of(to, plan_operations(make_plan(library, to, "copy", []))), tmp_path)
    assert not to.exists()


def test_one_process_at_a_time(tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from sports_lightning.organize.application import only_process\n"
        f"with only_process(Path({str(tmp_path)!r})): print(); sys.stdout.flush(); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(UserError, match="another process is organizing"), application.only_process(tmp_path):
            pass
        other.kill()
    with application.only_process(tmp_path):
        pass


def test_applying_and_undoing_import_no_torch() -> None:
    program = "import sys, sports_lightning.organize.__main__; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


HOSTILE = [
    *("a\nb.jpg", "a\tb.jpg", "a\x1b[31mb.jpg", " lead.jpg", "trail .jpg", "dots...jpg", "-rf.jpg", "--.jpg"),
    *("=1+1.jpg", "@x.jpg", "+x.jpg", "'q'.jpg", '"q".jpg', "a;b.jpg", "a,b.jpg", "a|b.jpg", "a&b.jpg", "$(x).jpg"),
    *("`x`.jpg", "{label}.jpg", "{0}.jpg", "%s.jpg", "a%00b.jpg", "..jpg", "...jpg", "~.jpg", "a:b.jpg", "a?b.jpg"),
    *("CON.jpg", "a\\b.jpg", "<img>.jpg", "é.jpg", "e\u0301.jpg", "ß.jpg", "ẞ.jpg", "İ.jpg", "日本.jpg"),
    *("a\u202eb.jpg", "\u200b.jpg", "x" * 251 + ".jpg", "é" * 125 + ".jpg", "IMG.jpg", "img.JPG"),
    os.fsdecode(b"\xff.jpg"),
]  # fmt: skip


@pytest.mark.parametrize("mode", MODES)
def test_hostile_names(tmp_path: Path, mode: str) -> None:
    library, to = tmp_path / "library", tmp_path / "sorted"
    for folder in ("one", "two"):
        (library / folder).mkdir(parents=True)
        for i, name in enumerate(HOSTILE):
            (library / folder / name).write_bytes(b"%s %d" % (folder.encode(), i))
    before = snapshot(library)
    free, images, states = FreeNames(to), [], {}
    for name in sorted(str(path.relative_to(library)) for path in library.rglob("*") if path.is_file()):
        image = PlannedImage(name, "ju/do..", "judo", 0.9, None, "sure")
        images.append(place(image, free, Pattern("{label}/{name}").target(image.label, name, None)))
        status = (library / name).stat()
        states[name] = [status.st_size, status.st_mtime_ns, digest_of(str(library / name))]
    plan = Plan(str(library), str(to), mode, "{label}/{name}", [], states, images)
    plan.write(tmp_path)
    edited = Plan.read(tmp_path).with_edits(tmp_path / "plan.csv")
    for read, planned in zip(edited.images, plan.images, strict=True):
        assert read == planned, "what was written reads back"
    application.apply(Journal.of(to, plan_operations(edited)), tmp_path)
    found = [path for path in to.rglob("*") if path.is_file()]
    assert len(found) == 2 * len(HOSTILE)
    assert {path.parent for path in found} == {to / "ju_do"}
    folded = {unicodedata.normalize("NFC", path.name).casefold() for path in found}
    assert len(folded) == len(found), "no two differ by case or Unicode form only"
    assert application.undo(tmp_path) == []
    assert snapshot(library) == before


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("..", "_"), ("", "_"), (".hidden", "_.hidden"), ("a/b", "a_b"), ("nul", "_nul"), ("a.", "a"),
        ("x" * 300, "x" * 200), ("table tennis", "table tennis"), ("e\u0301", "é"),
    ],
)  # fmt: skip
def test_labels_as_names_of_folders(text: str, name: str) -> None:
    assert safe_name(text) == name


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("{label}", "must end with"),
        ("{labl}/{name}", "is not a pattern of label"),
        ("{label.__class__}/{name}", "has the field 'label.__class__'"),
        ("../{name}", "leaves the folder to"),
        ("/{label}/{name}", "leaves the folder to"),
        ("{label/{name}", "is not a pattern of label"),
    ],
)
def test_patterns_that_cannot_work(pattern: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        Pattern(pattern).check()


def test_patterns() -> None:
    date = datetime(2024, 5, 17, 8, 30)
    pattern = Pattern("{label}/{date:%Y-%m}/{folder}/{name}")
    pattern.check()
    assert pattern.target("judo", "trip/day 1/a.jpg", date) == "judo/2024-05/trip/day 1/a.jpg"
    assert pattern.target("judo", "a.jpg", None) == "judo/undated/a.jpg"
    assert Pattern("{date:%Y%m%d-%H%M}{suffix}").target("judo", "a.b.JPG", date) == "20240517-0830.JPG"


@pytest.mark.parametrize(
    ("image", "companion", "target", "found"),
    [
        ("IMG_1.JPG", "IMG_1.xmp", "IMG_1 (2).JPG", "IMG_1 (2).xmp"),
        ("IMG_1.JPG", "img_1.jpg.XMP", "IMG_1 (2).JPG", "IMG_1 (2).JPG.XMP"),
        ("IMG_1.HEIC", "IMG_1.MOV", "a.HEIC", "a.MOV"),
        ("IMG_1.JPG", "IMG_1.JPG.supplemental-metadata.json", "a.JPG", "a.JPG.supplemental-metadata.json"),
        ("IMG_1(2).JPG", "IMG_1.JPG(2).json", "a.JPG", "a.JPG.json"),
    ],
)
def test_names_of_companions(image: str, companion: str, target: str, found: str) -> None:
    assert companion_target(image, companion, target) == found


@pytest.mark.parametrize(
    ("image", "companion"),
    [
        ("IMG_1(2).jpg", "IMG_1.jpg(2).json"),
        ("IMG_1(2).jpg", "IMG_1.jpg.supplemental-metadata(2).json"),
        ("Screenshot_20230101-120000_Messages.jpg", "Screenshot_20230101-120000_Messages.jpg.supple.json"),
        (f"{'x' * 50}.jpg", f"{'x' * 46}.json"),
    ],
)
def test_the_json_of_google_takeout_is_a_companion(tmp_path: Path, image: str, companion: str) -> None:
    for name in (image, companion, "IMG_1.jpg", "IMG_1.jpg.json"):
        (tmp_path / name).touch()
    found = find_companions([str(tmp_path / image), str(tmp_path / "IMG_1.jpg")])
    assert found.of_image[str(tmp_path / image)] == [companion]
    assert found.of_image[str(tmp_path / "IMG_1.jpg")] == ["IMG_1.jpg.json"]


def test_a_companion_of_two_images_stays_with_the_first(tmp_path: Path) -> None:
    for name in ("a.heic", "a.jpg", "a.xmp", "a.jpg.xmp", "ab.xmp", "a.txt"):
        (tmp_path / name).touch()
    found = find_companions([str(tmp_path / "a.heic"), str(tmp_path / "a.jpg")])
    assert dict(found.of_image) == {
        str(tmp_path / "a.heic"): ["a.xmp"],
        str(tmp_path / "a.jpg"): ["a.jpg.xmp"],
    }
    assert found.shared == [str(tmp_path / "a.xmp")]


def test_a_folder_that_leads_out_is_refused(tmp_path: Path) -> None:
    library, to = tmp_path / "library", tmp_path / "sorted"
    draw_library(library)
    to.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (to / "judo").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="leads out of to="):
        plan_operations(make_plan(library, to, "copy", []))


# The whole command.


@pytest.fixture(scope="module")
def planned(trained: tuple[Path, str], few: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photographs in `photos` and a plan for them in `plan`. Tests must not change it."""
    folder = tmp_path_factory.mktemp("organize")
    for i, path in enumerate(sorted((few / "test").rglob("*.jpg"))):
        (folder / "photos" / f"day {i % 2}").mkdir(parents=True, exist_ok=True)
        image, exif = Image.open(path), Image.Exif()
        exif.get_ifd(0x8769)[0x9003] = f"{2020 + i % 3}:05:17 08:30:00"
        image.save(folder / "photos" / f"day {i % 2}" / path.name, exif=exif, quality=90)
        (folder / "photos" / f"day {i % 2}" / path.name).with_suffix(".xmp").write_bytes(SIDECAR)
    (folder / "photos" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "photos" / "notes.txt").write_text("no image")
    plan(trained[0], folder, folder / "plan")
    return folder


def plan(run: Path, folder: Path, into: Path, *more: str) -> str:
    settings = [f"ckpt_path={run}", f"input={folder / 'photos'}", f"to={folder / 'sorted'}", f"hydra.run.dir={into}"]
    thresholds = ["reject=0.1", "coverage=0.8"]  # that 25 validation images allow
    return run_command("organize", *settings, *thresholds, *more).stdout


def rows_of(table: Path) -> list[dict[str, str]]:
    with table.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write_rows(table: Path, rows: list[dict[str, str]]) -> None:
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def test_a_plan_touches_nothing(planned: Path) -> None:
    assert not (planned / "sorted").exists()
    rows = rows_of(planned / "plan/plan.csv")
    assert len(rows) == len(list((planned / "photos").rglob("*.jpg"))) - 1
    for row in rows:
        assert row["target"].startswith(f"{row['label']}/")
        assert row["label"] == {"sure": row["suggested"]}.get(row["decision"], row["decision"])
        assert row["companions"] == Path(row["image"]).with_suffix(".xmp").name
    assert len({row["decision"] for row in rows}) > 1
    page = (planned / "plan/plan.html").read_text()
    assert all(f'data-row="{i}"' in page for i in range(len(rows)))


@pytest.mark.slow
def test_an_edited_plan_is_applied_and_undone(planned: Path, tmp_path: Path, trained: tuple[Path, str]) -> None:
    shutil.copytree(planned / "photos", tmp_path / "photos", copy_function=shutil.copy2)
    before = snapshot(tmp_path / "photos")
    plan(trained[0], tmp_path, tmp_path / "plan", "mode=move", "pattern={label}/{date:%Y}/{name}", "tags=[xmp,csv]")
    rows = rows_of(tmp_path / "plan/plan.csv")
    rows[0]["label"], rows[1]["label"], rows[2]["target"] = "my dog", "", "best of/first.jpg"
    write_rows(tmp_path / "plan/plan.csv", [{k: row[k] for k in ("image", "label", "target")} for row in rows[:-1]])
    applied = run_command(
        "organize", f"plan={tmp_path / 'plan'}", "apply=true", f"hydra.run.dir={tmp_path / 'applied'}"
    )
    to = tmp_path / "sorted"
    (dog,) = (to / "my dog").rglob("*.jpg")
    assert dog.parent.name in ("2020", "2021", "2022")
    assert b"sports_lightning|my dog" in dog.with_suffix(".xmp").read_bytes()
    assert (to / "best of/first.jpg").exists()
    assert (to / "best of/first.xmp").exists()
    assert (tmp_path / "photos" / rows[1]["image"]).exists(), "an empty label"
    assert (tmp_path / "photos" / rows[-1]["image"]).exists(), "a removed row"
    keywords = rows_of(tmp_path / "applied/tags.csv")
    assert {"path": str(dog), "keyword": "my dog", "hierarchical_keyword": "sports_lightning|my dog"} in keywords
    again = try_command("organize", f"plan={tmp_path / 'plan'}", "apply=true", f"hydra.run.dir={tmp_path / 'again'}")
    assert f"was applied in {tmp_path / 'applied'}: put that back first" in again.stderr
    # Only what is new is looked at, and decisions of the person stand.
    new = plan(trained[0], tmp_path, tmp_path / "second", "mode=move")
    decided = {row["image"]: (row["label"], row["decision"]) for row in rows_of(tmp_path / "second/plan.csv")}
    assert decided[rows[1]["image"]] == ("", "person")
    assert len(decided) == 2
    assert "2 images" in new
    undone = run_command("organize", f"undo={tmp_path / 'applied'}")
    assert f"undo={tmp_path / 'applied'}" in applied.stdout
    assert "files are as before" in undone.stdout
    assert snapshot(tmp_path / "photos") == before
    assert not to.exists()
    twice = try_command("organize", f"undo={tmp_path / 'applied'}")
    assert "has been undone already" in twice.stderr


def test_an_edited_plan_is_checked_without_touching_anything(planned: Path, tmp_path: Path) -> None:
    shutil.copytree(planned / "plan", tmp_path / "plan")
    rows = rows_of(tmp_path / "plan/plan.csv")
    labels = [row["suggested"] for row in rows]
    rows[0]["label"], rows[1]["label"], rows[2]["label"] = labels[1].upper(), "my dog", "My Dog"
    write_rows(tmp_path / "plan/plan.csv", [{k: row[k] for k in ("image", "label")} for row in rows])
    checked = run_command("organize", f"plan={tmp_path / 'plan'}", f"hydra.run.dir={tmp_path / 'check'}").stdout
    assert f"{len(rows)} images and {len(rows)} files beside them would be in {planned / 'sorted'}" in checked
    assert "2 my dog" in checked
    assert labels[1].upper() not in checked, "a label that differs in case only is the class"
    assert f"plan={tmp_path / 'plan'} apply=true" in checked
    assert not (planned / "sorted").exists()
    rows[2]["label"] = ""
    write_rows(tmp_path / "plan/plan (1).csv", [{k: row[k] for k in ("image", "label")} for row in rows])
    downloaded = tmp_path / "plan/plan (1).csv"
    other = run_command("organize", f"plan={downloaded}", f"hydra.run.dir={tmp_path / 'check'}").stdout
    assert "1 my dog" in other, "the table that was named is read"
    assert f"'plan={downloaded}' apply=true" in other
    result = try_command("organize", f"plan={tmp_path / 'plan/plan.html'}", f"hydra.run.dir={tmp_path / 'check'}")
    assert_error_line(result, "plan.html is not the run folder of a plan, or the edited table in it, such as plan.csv")
    rows[1]["image"] = rows[0]["image"]
    write_rows(tmp_path / "plan/plan.csv", rows)
    result = try_command("organize", f"plan={tmp_path / 'plan'}", f"hydra.run.dir={tmp_path / 'again'}")
    assert "row 3" in result.stderr
    assert "is twice" in result.stderr
    shutil.copytree(planned / "plan", tmp_path / "moved")
    content = json.loads((tmp_path / "moved/plan.json").read_text())
    path = next(path for path in content["states"] if path.endswith(".jpg"))
    content["states"][path][0] += 1
    (tmp_path / "moved/plan.json").write_text(json.dumps(content))
    result = try_command("organize", f"plan={tmp_path / 'moved'}", f"hydra.run.dir={tmp_path / 'again'}")
    assert f"{planned / 'photos' / path} has changed since the plan: plan again" in result.stderr


@pytest.mark.parametrize("mode", ["copy", "move", "hardlink"])
@pytest.mark.parametrize("what", ["file", "folder"])
def test_undo_never_removes_the_only_copy(tmp_path: Path, mode: str, what: str) -> None:
    library, to = tmp_path / "library", tmp_path / "sorted"
    (library / "a").mkdir(parents=True)
    (library / "a/1.JPG").write_bytes(b"the only one")
    plan = make_plan(library, to, mode, [])
    application.apply(Journal.of(to, plan_operations(plan)), tmp_path)
    old, new = (library / "a/1.JPG", to / "judo/1.JPG") if what == "file" else (library / "a", to / "judo")
    shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
    old.symlink_to(new)  # so that other programs still find it
    kept = application.undo(tmp_path)
    files = [path for path in (*library.rglob("*.JPG"), *to.rglob("*.JPG")) if path.is_file() and not path.is_symlink()]
    assert {path.read_bytes() for path in files} == {b"the only one"}
    assert bool(kept) == (mode != "move" or what == "folder")


def test_a_run_folder_holds_one_application(tmp_path: Path) -> None:
    library, to, run = tmp_path / "library", tmp_path / "sorted", tmp_path / "run"
    draw_library(library)
    run.mkdir()
    before = snapshot(library)
    operations = plan_operations(make_plan(library, to, "move", []))
    application.apply(Journal.of(to, operations[:1]), run)
    with pytest.raises(UserError, match=r"holds the journal\.jsonl of another application"):
        application.apply(Journal.of(to, operations[1:]), run)
    for _ in range(2):
        assert application.undo(run) == []
        assert snapshot(library) == before
        application.apply(Journal.of(to, plan_operations(make_plan(library, to, "move", []))), run)
    application.undo(run)


def test_undo_leaves_a_file_that_it_never_moved(tmp_path: Path) -> None:
    library, to = tmp_path / "library", tmp_path / "sorted"
    draw_library(library)
    operations = plan_operations(make_plan(library, to, "move", []))
    Journal.of(to, operations).write(tmp_path)  # killed before the first operation
    (library / "day 0/IMG_0.JPG").unlink()
    (to / "judo").mkdir(parents=True)
    (to / "judo/IMG_0.JPG").write_bytes(b"of another application")
    kept = application.undo(tmp_path)
    assert any("IMG_0.JPG has changed since" in reason for reason in kept)
    assert (to / "judo/IMG_0.JPG").read_bytes() == b"of another application"


def test_an_application_that_fails_says_how_to_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library, to = tmp_path / "library", tmp_path / "sorted"
    draw_library(library)
    before = snapshot(library)
    operations = plan_operations(make_plan(library, to, "move", []))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(file_operations.os, "link", full)
        with pytest.raises(UserError, match="No space left on device") as error:
            application.apply(Journal.of(to, operations), tmp_path)
    assert any(f"undo={tmp_path}" in note for note in error.value.__notes__)
    assert application.undo(tmp_path) == []
    assert snapshot(library) == before


def test_an_application_that_is_interrupted_says_how_to_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    library, to = tmp_path / "library", tmp_path / "sorted"
    draw_library(library)
    journal = Journal.of(to, plan_operations(make_plan(library, to, "move", [])))

    def interrupted(_: object) -> None:
        raise Interrupted(signal.SIGINT)

    monkeypatch.setattr(application, "carry_out", interrupted)
    monkeypatch.setattr("sports_lightning.cli.execute._remove_without_results", lambda *_: None)
    (run := tmp_path / "run").mkdir()
    command = Command("organize", lambda cfg, folder: application.apply(journal, folder))
    assert execute(command, OmegaConf.create(), run) == 130
    assert (
        f"interrupted by SIGINT; to put back what was done: {format_command('organize', [f'undo={run}'])}\n"
        == capsys.readouterr().err
    )


def test_one_file_does_not_block_the_undo_of_others(tmp_path: Path) -> None:
    library, to = tmp_path / "library", tmp_path / "sorted"
    draw_library(library)
    application.apply(Journal.of(to, plan_operations(make_plan(library, to, "move", []))), tmp_path)
    shutil.rmtree(library / "day 1")
    (library / "day 1").write_text("a file where a folder was")
    kept = application.undo(tmp_path)
    assert len(kept) == 6
    assert len(list(library.rglob("*.JPG"))) == 3
    (library / "day 1").unlink()
    assert application.undo(tmp_path) == []
    assert len(list(library.rglob("*.JPG"))) == 6


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ("x/a.jpg", "x//a.jpg", None),
        ("x/a.jpg", "X/A.jpg", None),
        ("best", "best/b.jpg", "would be a file and the folder of"),
        ("best/", "x.jpg", "is not the path of a file"),
    ],
)
def test_targets_that_clash(tmp_path: Path, first: str, second: str, said: str | None) -> None:
    library, to = tmp_path / "library", tmp_path / "sorted"
    draw_library(library)
    plan = make_plan(library, to, "move", [])
    rows = [{"image": image.image, "label": image.label, "target": image.target} for image in plan.images]
    rows[0]["target"], rows[1]["target"] = first, second
    write_rows(tmp_path / "plan.csv", rows)
    if said:
        with pytest.raises(UserError, match=said):
            plan_operations(plan.with_edits(tmp_path / "plan.csv"))
    else:
        edited = plan.with_edits(tmp_path / "plan.csv")
        assert len({image.target.casefold() for image in edited.images}) == len(plan.images)


def test_new_sidecars_have_names_of_their_own(tmp_path: Path) -> None:
    library, to = tmp_path / "library", tmp_path / "sorted"
    (library / "a").mkdir(parents=True)
    for name in ("1.JPG", "x" * 250 + ".JPG"):
        (library / "a" / name).write_bytes(name.encode())
    (to / "judo").mkdir(parents=True)
    (to / "judo/1.JPG.xmp").write_bytes(b"of a photograph that is gone")
    application.apply(Journal.of(to, plan_operations(make_plan(library, to, "move", ["xmp"]))), tmp_path)
    assert (to / "judo/1 (2).JPG.xmp").exists()
    assert (to / "judo/1.JPG.xmp").read_bytes() == b"of a photograph that is gone"
    assert application.undo(tmp_path) == []
    assert len(list(library.rglob("*.JPG"))) == 2


def test_folders_that_differ_in_case_only_are_both_looked_at(tmp_path: Path) -> None:
    for name in ("Judo", "judo"):
        (tmp_path / name).mkdir()
    (tmp_path / "judo/a.jpg").touch()
    free = FreeNames(tmp_path)
    assert free.take("Judo/b.jpg", [])[0] == "Judo/b.jpg"
    assert free.take("judo/a.jpg", [])[0] == "judo/a (2).jpg"


def test_classes_may_be_named_like_the_folder_of_rejected_images(tmp_path: Path) -> None:
    cfg = OmegaConf.create({"reject": 0.05, "coverage": 0.9})
    with pytest.raises(UserError, match=r"class 'None'.*set reject=null"):
        check_folder_names(["judo", "None"], cfg)
    with pytest.raises(UserError, match=r"class 'unsure'.*set coverage=null"):
        check_folder_names(["judo", "unsure"], cfg)
    cfg.reject = None
    check_folder_names(["judo", "None"], cfg)
    image = PlannedImage("a.jpg", "none", "none", 0.9, None, "sure", "none/a.jpg")
    write_keywords(Plan("", str(tmp_path), "copy", "{label}/{name}", [], {}, [image]), tmp_path / "tags.csv")
    assert rows_of(tmp_path / "tags.csv")[0]["keyword"] == "none"


def test_a_class_with_blanks_around_its_name_is_no_edit(tmp_path: Path) -> None:
    image = PlannedImage("a.jpg", "bmx ", "bmx ", 0.9, None, "sure", "bmx/a.jpg")
    planned = Plan(str(tmp_path), str(tmp_path / "to"), "copy", "{label}/{name}", [], {}, [image])
    for cell in ("bmx ", "bmx"):  # a spreadsheet may remove them
        write_rows(tmp_path / "plan.csv", [{"image": "a.jpg", "label": cell}])
        assert planned.with_edits(tmp_path / "plan.csv").images == [image]


def test_decisions_are_forgotten_by_the_undo_of_their_run_only(tmp_path: Path) -> None:
    image = PlannedImage("a.jpg", "judo", "bmx", 0.9, None, "person", "judo/a.jpg", digest="1")
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to("run")
    add_decisions(tmp_path, [image], str(tmp_path / "run"))
    remove_decisions(tmp_path, tmp_path / "other")
    assert read_decisions(tmp_path) == {"1": "judo"}
    remove_decisions(tmp_path, tmp_path / "link")
    assert read_decisions(tmp_path) == {}


def test_images_of_which_none_can_be_read_are_one_line(tmp_path: Path, trained: tuple[Path, str]) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").write_text("no image")
    result = try_command("organize", f"ckpt_path={trained[0]}", f"input={tmp_path / 'photos'}", "to=sorted")
    assert_error_line(result, "none of the images in input", "can be read; a.jpg: ")


def test_names_that_are_too_long() -> None:
    with pytest.raises(UserError, match="is too long"):
        FreeNames(Path("/nowhere")).take("j/a." + "b" * 300, [])
    assert shortened("é", 1) == ""


def test_a_target_of_its_own_needs_no_label(tmp_path: Path) -> None:
    image = PlannedImage("a.jpg", "judo", "judo", 0.9, None, "sure", "judo/a.jpg")
    planned = Plan(str(tmp_path), str(tmp_path / "to"), "copy", "{label}/{name}", [], {}, [image])
    write_rows(tmp_path / "plan.csv", [{"image": "a.jpg", "label": "", "target": "best/a.jpg"}])
    assert planned.with_edits(tmp_path / "plan.csv").images[0].target == "best/a.jpg"


@pytest.mark.slow
def test_a_second_plan_leaves_out_what_is_there(planned: Path, tmp_path: Path, trained: tuple[Path, str]) -> None:
    shutil.copytree(planned / "photos", tmp_path / "photos")
    plan(trained[0], tmp_path, tmp_path / "run", "apply=true")
    count = len(list((tmp_path / "sorted").rglob("*.jpg")))
    assert count == len(rows_of(tmp_path / "run/plan.csv"))
    assert "there is nothing new" in plan(trained[0], tmp_path, tmp_path / "again", "apply=true")
    Image.new("RGB", (80, 60), "green").save(tmp_path / "photos/new.png")
    plan(trained[0], tmp_path, tmp_path / "next")
    assert [row["image"] for row in rows_of(tmp_path / "next/plan.csv")] == ["new.png"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["input=here"], "organize needs ckpt_path=RUN input=PHOTOS to=SORTED to make a plan"),
        (["plan=here"], "holds no plan.json"),
        (["plan=here", "apply=true", "to=there"], "know the folders already"),
        (["plan=here", "undo=here"], "one at a time"),
        (["plan=here", "apply=true"], "holds no plan.json"),
        (["plan=nowhere", "apply=true"], "nowhere does not exist"),
        (["undo=here"], "holds no journal.jsonl"),
        (["ckpt_path=x", "input=here", "to=here/sorted"], "so that sorted images would be sorted again"),
        (["ckpt_path=x", "input=here", "to=here"], "so that sorted images would be sorted again"),
        (["ckpt_path=x", "input=nowhere", "to=there"], "input=nowhere is not a folder"),
        (["ckpt_path=x", "input=here", "to=there", "mode=delete"], "mode"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("here").mkdir()
    result = try_command("organize", *arguments)
    assert result.status == 1
    assert said in result.stderr
    assert result.stderr.count("\n") == 1
    assert not list(Path("here").iterdir())


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("image,label\nnot there.jpg,judo\n", "row 2: 'not there.jpg' is not in the plan"),
        ("image;label\nday 0/001.jpg;judo\nday 0/001.jpg;judo\n", "row 3: 'day 0/001.jpg' is twice"),
        ("picture,label\nx,judo\n", "has no column 'image'"),
        ("image,label,ziel\nday 0/001.jpg,judo,x.jpg\n", "has the column 'ziel', and no column 'target'"),
        ("image,label\nday 0/001.jpg,Fu\udcdfball\n", "row 2: the label or target is not UTF-8"),
        ("image,label,target\nday 0/001.jpg,judo,../x.jpg\n", "is not the path of a file below to"),
        ("image,label,target\nday 0/001.jpg,judo,/etc/x.jpg\n", "is not the path of a file below to"),
    ],
)
def test_wrong_edits_name_the_row(tmp_path: Path, text: str, said: str) -> None:
    image = PlannedImage("day 0/001.jpg", "judo", "judo", 0.9, None, "sure", "judo/001.jpg")
    planned = Plan(str(tmp_path), str(tmp_path / "to"), "copy", "{label}/{name}", [], {}, [image])
    (tmp_path / "plan.csv").write_text(text, errors="surrogateescape")
    with pytest.raises(UserError) as error:
        planned.with_edits(tmp_path / "plan.csv")
    assert said in str(error.value)


def test_a_damaged_plan_or_journal_is_one_line(tmp_path: Path) -> None:
    for name, settings in (("plan.json", ["plan=x", "apply=true"]), ("journal.jsonl", ["undo=x"])):
        (tmp_path / "x").mkdir(exist_ok=True)
        (tmp_path / "x" / name).write_text('{"to": ')
        result = try_command("organize", *settings, cwd=tmp_path)
        assert result.status == 1
        assert f"{name} is damaged" in result.stderr


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.slow
def test_images_are_ticked_and_saved_on_the_page(planned: Path, tmp_path: Path) -> None:
    rows = rows_of(planned / "plan/plan.csv")
    with browser() as page:
        page.resize(390, 844, phone=True)
        page.open((planned / "plan/plan.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "no sideways scrolling on a phone"
        page.evaluate("document.querySelector('[data-row=\"0\"] .pick').click()")
        page.evaluate("label.value = 'my \"dog\", too', show(), set.click()")
        page.evaluate("document.querySelector('[data-row=\"1\"] .pick').click(), stay.click()")
        assert page.evaluate("status.textContent") == "2 changed"
        page.open((planned / "plan/plan.html").as_uri())
        assert page.evaluate("status.textContent") == "2 changed", "the browser remembers"
        saved = page.evaluate(
            "new Promise(done => { const make = URL.createObjectURL; URL.createObjectURL = blob => "
            "{ blob.text().then(done); return make(blob); }; document.getElementById('save').click(); })"
        )
        assert not page.errors()
        assert all(address.startswith(("file:", "data:", "blob:")) for address in page.requested())
    (tmp_path / "plan.csv").write_text(saved, encoding="utf-8")
    edited = Plan.read(planned / "plan").with_edits(tmp_path / "plan.csv")
    assert [(image.label, image.decision) for image in edited.images[:2]] == [
        ('my "dog", too', "person"),
        ("", "person"),
    ]
    assert edited.images[0].target == f"my _dog_, too/{Path(rows[0]['image']).name}"
    assert edited.images[2:] == Plan.read(planned / "plan").images[2:]
