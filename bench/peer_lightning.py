"""Lightning's BackboneFinetuning: the head alone at first, then the backbone too at a
tenth of its rate.
"""

from __future__ import annotations

import logging
import sys
import warnings
from typing import Any

import torch
from common import Setting, StepClock, given, last_layer, leave, pretrained
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import BackboneFinetuning
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

BATCH = 32


class Classifier(LightningModule):
    def __init__(self, setting: Setting, clock: StepClock) -> None:
        super().__init__()
        self.clock = clock
        self.backbone = pretrained(setting)
        parent, name, layer = last_layer(self.backbone)
        setattr(parent, name, nn.Identity())
        self.head = nn.Linear(layer.in_features, len(setting.labels))
        self.correct = self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.backbone(x))

    def training_step(self, batch: Any, index: int) -> Tensor:
        x, y = batch
        self.clock.images += len(x)
        return nn.functional.cross_entropy(self(x), y)

    def validation_step(self, batch: Any, index: int) -> None:
        x, y = batch
        self.correct += int((self(x).argmax(1) == y).sum())
        self.seen += len(x)

    def on_validation_epoch_end(self) -> None:
        self.clock.mark(self.correct / max(1, self.seen))
        self.correct = self.seen = 0

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(
            filter(lambda p: p.requires_grad, self.parameters()), lr=1e-3
        )


def loader(setting: Setting, phase: str) -> DataLoader:
    presented = {
        "train": [
            transforms.RandomResizedCrop(setting.size),
            transforms.RandomHorizontalFlip(),
        ],
        "val": [transforms.Resize(setting.resize), transforms.CenterCrop(setting.size)],
    }[phase]
    steps = transforms.Compose(
        [
            *presented,
            transforms.ToTensor(),
            transforms.Normalize(setting.mean, setting.std),
        ]
    )
    return DataLoader(
        datasets.ImageFolder(f"{setting.data}/{phase}", steps),
        batch_size=BATCH,
        shuffle=phase == "train",
        num_workers=setting.threads,
        persistent_workers=True,
    )


def main() -> None:
    setting = given()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    clock = StepClock()
    train, val = loader(setting, "train"), loader(setting, "val")
    epochs = setting.epochs["lightning"]
    unfreeze = BackboneFinetuning(
        unfreeze_backbone_at_epoch=max(1, epochs // 2),
        backbone_initial_ratio_lr=0.1,
        lambda_func=lambda epoch: 1.5,
    )
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=[unfreeze],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        log_every_n_steps=1,
    )
    trainer.fit(Classifier(setting, clock), train, val)
    leave([clock.result("lightning", len(val.dataset))])


if __name__ == "__main__":
    sys.exit(main())
