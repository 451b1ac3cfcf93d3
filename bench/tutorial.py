"""Transfer learning as the usual tutorial writes it: both of its scenarios.

fp32, batches of 4, SGD 0.001 with momentum 0.9, the rate divided by ten every 7 epochs,
25 epochs, every image decoded in every epoch, random resized crop and flip, validation
after each epoch, the best epoch kept.
"""

from __future__ import annotations

import copy

import torch
from common import Result, Setting, StepClock, given, last_layer, leave, pretrained
from torch import nn, optim
from torch.utils.data import DataLoader
from torchvision import datasets, transforms


def loaders(setting: Setting) -> dict[str, DataLoader]:
    normalize = transforms.Normalize(setting.mean, setting.std)
    steps = {
        "train": transforms.Compose(
            [
                transforms.RandomResizedCrop(setting.size),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                normalize,
            ]
        ),
        "val": transforms.Compose(
            [
                transforms.Resize(setting.resize),
                transforms.CenterCrop(setting.size),
                transforms.ToTensor(),
                normalize,
            ]
        ),
    }
    return {
        phase: DataLoader(
            datasets.ImageFolder(f"{setting.data}/{phase}", steps[phase]),
            batch_size=4,
            shuffle=True,
            num_workers=setting.threads,
        )
        for phase in ("train", "val")
    }


def train(setting: Setting, name: str, head_only: bool) -> Result:
    torch.manual_seed(setting.seed)
    clock = StepClock()
    data = loaders(setting)
    model = pretrained(setting)
    for parameter in model.parameters():
        parameter.requires_grad = not head_only
    parent, last, layer = last_layer(model)
    setattr(parent, last, nn.Linear(layer.in_features, len(setting.labels)))
    criterion = nn.CrossEntropyLoss()
    optimizer = optim.SGD(
        [p for p in model.parameters() if p.requires_grad], lr=0.001, momentum=0.9
    )
    scheduler = optim.lr_scheduler.StepLR(optimizer, step_size=7, gamma=0.1)
    best, best_weights = 0.0, copy.deepcopy(model.state_dict())
    for _ in range(setting.epochs[name]):
        model.train()
        for x, y in data["train"]:
            optimizer.zero_grad()
            loss = criterion(model(x), y)
            loss.backward()
            optimizer.step()
            clock.images += len(x)
        scheduler.step()
        model.eval()
        with torch.no_grad():
            correct = sum(int((model(x).argmax(1) == y).sum()) for x, y in data["val"])
        accuracy = correct / len(data["val"].dataset)
        clock.mark(accuracy)
        if accuracy > best:
            best, best_weights = accuracy, copy.deepcopy(model.state_dict())
    model.load_state_dict(best_weights)
    return clock.result(name, len(data["val"].dataset))


if __name__ == "__main__":
    setting = given()
    leave(
        [
            train(setting, name, name == "tutorial-head")
            for name in setting.epochs
            if name.startswith("tutorial")
        ]
    )
