"""The baseline: a plain training with pytorch-lightning, torchvision's ImageFolder, two workers and a timm model.

    python benchmarks/plain_loop.py ROOT/train MODEL BATCH_SIZE STEPS [PRECISION WORKERS]

Prints the images per second of the second of two epochs of STEPS steps.
"""

import sys
import time

import pytorch_lightning as pl
import timm
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

import sports_lightning.models  # noqa: F401  (simple_cnn)

TRANSFORM = transforms.Compose(
    [
        transforms.RandomResizedCrop(224, scale=(0.35, 1.0)),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    ]
)


class Plain(pl.LightningModule):
    def __init__(self, name: str, num_classes: int) -> None:
        super().__init__()
        self.net = timm.create_model(name, num_classes=num_classes)

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        images, labels = batch
        return F.cross_entropy(self.net(images), labels)

    def on_train_epoch_start(self) -> None:
        self.started = time.perf_counter()

    def on_train_epoch_end(self) -> None:
        self.seconds = time.perf_counter() - self.started

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main() -> None:
    folder, name, batch_size, steps = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    precision, workers = (sys.argv[5], int(sys.argv[6])) if len(sys.argv) > 5 else ("32-true", 2)
    images = ImageFolder(folder, TRANSFORM)
    loader = DataLoader(images, batch_size, shuffle=True, num_workers=workers, persistent_workers=workers > 0)
    module = Plain(name, len(images.classes))
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_model_summary": False,
        "enable_progress_bar": False,
    }
    pl.Trainer(max_epochs=2, limit_train_batches=steps, precision=precision, **quiet).fit(module, loader)  # type: ignore[arg-type]
    print(f"{batch_size * steps / module.seconds:.2f}")


if __name__ == "__main__":
    main()
