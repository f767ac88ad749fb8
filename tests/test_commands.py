"""The files that train, evaluate and predict write, and what the commands print."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn import metrics as sk

from commands import run_command, try_command
from conftest import FAST, assert_error_line
from processes import fresh_process
from sports_lightning.predict.results import Predictions

METRICS = {"loss", "acc", "acc_top5", "f1_macro", "precision_macro", "recall_macro"}


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def assert_metrics_match(metrics: dict[str, float], predictions: list[dict[str, str]]) -> None:
    """The metrics of metrics.json equal scikit-learn's on the predictions file."""
    labels = [row["label"] for row in predictions]
    predicted = [row["prediction"] for row in predictions]
    precision, recall, f1, _ = sk.precision_recall_fscore_support(labels, predicted, average="macro", zero_division=0)
    top5 = np.mean([row["label"] in [row[f"top{k}"] for k in range(1, 6)] for row in predictions])
    expected = {
        "loss": -np.mean([np.log(float(row["label_probability"])) for row in predictions]),
        "acc": sk.accuracy_score(labels, predicted),
        "acc_top5": top5,
        "f1_macro": f1,
        "precision_macro": precision,
        "recall_macro": recall,
    }
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_train_writes_its_run_folder(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        ".hydra",
        "checkpoints",
        "metrics.csv",
        "metrics.json",
        "curves.png",
        "report.html",
        "run.json",
        "predictions.csv",
        "per_class.csv",
        "confusion_matrix.png",
        "mistakes.png",
        "wandb",
    }
    assert {p.name for p in (folder / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt", "MODEL_CARD.md"}
    metrics = json.loads((folder / "metrics.json").read_text())
    assert set(metrics) == {"val", "test", "train"}
    assert all(set(values) >= METRICS for values in metrics.values())
    assert_metrics_match(metrics["test"], read_csv(folder / "predictions.csv"))


def test_metrics_csv_has_one_row_per_epoch_and_the_best_one_is_the_checkpoint(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    rows = read_csv(folder / "metrics.csv")
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    assert {f"{split}/{name}" for split in ("train", "val") for name in METRICS} <= set(rows[0])
    metrics = json.loads((folder / "metrics.json").read_text())
    best = max(rows, key=lambda row: float(row["val/acc"]))
    assert float(best["val/acc"]) == pytest.approx(metrics["val"]["acc"], abs=1e-6)
    assert float(best["val/loss"]) == pytest.approx(metrics["val"]["loss"], rel=1e-5)
    assert float(best["train/acc"]) == metrics["train"]["acc"]


def test_per_class_metrics_equal_scikit_learn(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    predictions, per_class = read_csv(folder / "predictions.csv"), read_csv(folder / "per_class.csv")
    names = [row["class"] for row in per_class]
    expected = sk.precision_recall_fscore_support(
        [p["label"] for p in predictions], [p["prediction"] for p in predictions], labels=names, zero_division=0
    )
    for column, values in zip(("precision", "recall", "f1", "count"), expected, strict=True):
        assert [float(row[column]) for row in per_class] == pytest.approx(list(values))


def test_wandb_run_is_stored_offline_in_the_run_folder(trained: tuple[Path, str]) -> None:
    folder, printed = trained
    assert len(list((folder / "wandb").glob("offline-run-*/*.wandb"))) == 1
    assert f"wandb sync {folder}/wandb/offline-run-*" in printed, "the command that uploads it later"


@pytest.mark.slow
def test_evaluate_needs_only_the_checkpoint(trained: tuple[Path, str], tmp_path: Path) -> None:
    folder, _ = trained
    ckpt = tmp_path / "moved.ckpt"
    shutil.copy(folder / "checkpoints/best.ckpt", ckpt)
    printed = run_command("evaluate", f"ckpt_path={ckpt}", "inference.accelerator=cpu").stdout
    out = tmp_path / printed.strip().splitlines()[-1]
    of_train, alone = (json.loads((run / "metrics.json").read_text())["test"] for run in (folder, out))
    assert of_train == alone, "leaks and intervals too"
    assert (out / "predictions.csv").read_text() == (folder / "predictions.csv").read_text()
    assert {p.name for p in out.iterdir()} >= {"per_class.csv", "confusion_matrix.png", "mistakes.png"}


@pytest.mark.slow
def test_evaluate_looks_at_images_as_predict_does(trained: tuple[Path, str], few: Path, tmp_path: Path) -> None:
    folder, _ = trained
    for split in ("train", "test"):  # wider than high, which the sample is not
        for path in (few / split).rglob("*.jpg"):
            target = tmp_path / "wide" / path.relative_to(few)
            target.parent.mkdir(parents=True, exist_ok=True)
            with Image.open(path) as image:
                image.resize((128, 64)).save(target)
    predictions = {}
    for mode in ("center", "squash"):
        settings = [f"ckpt_path={folder}", f"data.crop_mode={mode}", "inference.accelerator=cpu"]
        run_command("evaluate", *settings, f"data.root={tmp_path / 'wide'}", f"hydra.run.dir={tmp_path / mode}")
        run_command("predict", *settings, str(tmp_path / "wide/test"), f"hydra.run.dir={tmp_path / mode}-predicted")
        evaluated, predicted = (
            {Path(row["path"]).parts[-2:]: row["probability"] for row in read_csv(tmp_path / f"{run}/predictions.csv")}
            for run in (mode, f"{mode}-predicted")
        )
        assert evaluated == predicted
        predictions[mode] = evaluated
    assert predictions["center"] != predictions["squash"]


def test_predict_labels_any_image_and_lists_unreadable_ones(
    trained: tuple[Path, str], few: Path, tmp_path: Path
) -> None:
    folder, _ = trained
    images = tmp_path / "photos" / "deeper"
    images.mkdir(parents=True)
    source = few / "test" / "sailing" / "001.jpg"
    shutil.copy(source, images / "plain.jpg")
    with Image.open(source) as image:
        image.convert("L").save(images / "grey.png")
        image.convert("RGBA").resize((300, 90)).save(images / "wide.webp")
    (images / "torn.jpg").write_bytes(source.read_bytes()[:900])
    result = run_command(
        "predict",
        f"ckpt_path={folder / 'checkpoints/best.ckpt'}",
        f"input={tmp_path / 'photos'}",
        "inference.accelerator=cpu",
    )
    out = tmp_path / result.stdout.strip().splitlines()[-1]
    rows = {Path(row["path"]).name: row for row in read_csv(out / "predictions.csv")}
    assert set(rows) == {"plain.jpg", "grey.png", "wide.webp", "torn.jpg"}
    assert "truncated" in rows["torn.jpg"]["error"]
    assert rows["torn.jpg"]["prediction"] == ""
    assert rows["plain.jpg"]["error"] == ""
    assert "torn.jpg" in result.stdout
    assert (out / "predictions.png").stat().st_size > 10_000
    # predict and the evaluation at the end of train give the same result for the same image.
    tested = {row["path"]: row for row in read_csv(folder / "predictions.csv")}["test/sailing/001.jpg"]
    assert rows["plain.jpg"]["prediction"] == tested["prediction"]
    assert float(rows["plain.jpg"]["probability"]) == pytest.approx(float(tested["probability"]), abs=1e-5)


def test_predictions_of_many_images_are_printed_in_part(capsys: pytest.CaptureFixture[str]) -> None:
    paths = [f"photos/{i:04}.jpg" for i in range(1234)]
    torn = [f"torn/{i:04}.png" for i in range(60)]
    Predictions(paths, torch.randn(1234, 3), ["a", "b", "c"], dict.fromkeys(torn, "truncated")).print()
    printed = capsys.readouterr().out
    assert [path for path in paths if path.removeprefix("photos/") in printed] == paths[:50]
    assert "and 1,184 more in predictions.csv" in printed
    assert [path for path in torn if f"{path}: truncated" in printed] == torn[:50]
    assert "and 10 more that are unreadable" in printed


@pytest.mark.slow
def test_a_run_repeats_exactly_whatever_the_number_of_workers(few: Path, tmp_path: Path) -> None:
    tables = []
    for workers in (0, 2):
        out = tmp_path / f"workers{workers}"
        run_command(
            "train",
            *FAST,
            f"data.root={few}",
            f"data.num_workers={workers}",
            "augment=strong",
            "logger=csv",
            "test=false",
            "trainer.max_epochs=2",
            "trainer.limit_train_batches=6",
            f"hydra.run.dir={out}",
        )
        tables.append((out / "metrics.csv").read_text())
    assert tables[0] == tables[1]


def test_three_epochs_on_the_sample_beat_chance(trained: tuple[Path, str]) -> None:
    metrics = json.loads((trained[0] / "metrics.json").read_text())
    assert metrics["test"]["acc"] > 0.25, "of ten classes"


@pytest.mark.slow
def test_two_devices_train_one_run(few: Path, tmp_path: Path) -> None:
    """Two processes with half of each batch each take the steps of one process with the whole batch."""
    arguments = [*FAST, f"data.root={few}", "model=simple_cnn", "augment=none", "optimizer=sgd", "logger=csv"]
    arguments += ["trainer.max_epochs=1", "trainer.limit_train_batches=4", "test=false"]
    run_command("train", *arguments, "hydra.run.dir=one")
    result = fresh_process("train", *arguments, "trainer.devices=2")
    assert result.status == 0, result.stderr
    folder = Path(result.last_line)
    assert list((tmp_path / "outputs/train").iterdir()) == [folder]
    one, two = (
        torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for run in (tmp_path / "one", folder)
    )
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_averaged_weights_are_validated_saved_and_tested(few: Path, tmp_path: Path) -> None:
    run_command(
        "train",
        *FAST,
        f"data.root={few}",
        "callbacks=[default,ema]",
        "trainer.max_epochs=1",
        "trainer.limit_train_batches=8",
        "logger=csv",
        "test=false",
        "hydra.run.dir=run",
    )
    checkpoint = torch.load(tmp_path / "run/checkpoints/best.ckpt", weights_only=True)
    name = "classifier.net.classifier.weight"
    assert not torch.equal(checkpoint["state_dict"][name], checkpoint["current_model_state"][name])
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    validated = float(read_csv(tmp_path / "run/metrics.csv")[0]["val/loss"])
    assert validated == pytest.approx(metrics["val"]["loss"], rel=1e-5)


def test_last_is_the_last_epoch_and_best_the_best(trained: tuple[Path, str]) -> None:
    folder, _ = trained
    epochs = {
        name: torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)["epoch"] for name in ("best", "last")
    }
    accuracies = [float(row["val/acc"]) for row in read_csv(folder / "metrics.csv")]
    assert epochs == {"best": accuracies.index(max(accuracies)), "last": len(accuracies) - 1}


@pytest.mark.slow
def test_debug_overfit_reaches_a_high_train_accuracy(few: Path, tmp_path: Path) -> None:
    run_command("train", *FAST, "debug=overfit", f"data.root={few}", "hydra.run.dir=run")
    assert float(read_csv(tmp_path / "run/metrics.csv")[-1]["train/acc"]) > 0.95


def test_package_lists_its_commands(tmp_path: Path) -> None:
    assert run_command("", "--version").stdout.startswith("sports_lightning 0.")
    assert_error_line(try_command("", "tran"), "there is no command tran: did you mean train?")
    printed = run_command("").stdout
    for name in ("train", "evaluate", "predict"):
        assert f"sports-lightning {name} " in printed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train", "evaluate", "predict"])
def test_help_does_not_import_torch(name: str, tmp_path: Path) -> None:
    program = (
        "import runpy, sys\n"
        "sys.argv = ['x', '--help']\n"
        "try:\n"
        f"    runpy.run_module('sports_lightning.{name}', run_name='__main__')\n"
        "finally:\n"
        "    print('torch' in sys.modules)\n"
    )
    printed = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True).stdout
    assert "Examples" in printed
    assert f"python -m sports_lightning.{name} " in printed
    assert printed.strip().endswith("False")
    assert not (tmp_path / "outputs").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("said", "spins"), [({}, "2000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")]
)
def test_idle_threads_sleep_unless_the_environment_overrides_it(said: dict[str, str], spins: str) -> None:
    program = (
        "import os, runpy, sys\n"
        "sys.argv = ['x', '--help']\n"
        "try:\n"
        "    runpy.run_module('sports_lightning.train', run_name='__main__')\n"
        "finally:\n"
        "    print(os.environ.get('GOMP_SPINCOUNT'), 'torch' in sys.modules)\n"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")} | said
    result = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert result.stdout.split()[-2:] == [spins, "False"], "set before torch is imported"
