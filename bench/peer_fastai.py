"""fastai's `fine_tune` with its defaults: one epoch of the head, then all of it with
graded rates (one-cycle).

`vision_learner` cannot cut every torchvision network, so the learner is put together
from the same parts that it would use: the network's features, fastai's own head, and a
split between them.
"""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from fastai.callback.schedule import fine_tune  # noqa: F401  (adds the method)
    from fastai.data.transforms import Normalize
    from fastai.learner import Learner
    from fastai.losses import CrossEntropyLossFlat
    from fastai.metrics import accuracy
    from fastai.torch_core import apply_init, params
    from fastai.vision.augment import Resize, aug_transforms
    from fastai.vision.data import ImageDataLoaders
    from fastai.vision.learner import create_head

from common import StepClock, given, leave, pretrained
from fastai.callback.core import Callback
from torch import nn


class Marks(Callback):
    """Notes time and accuracy after each epoch."""

    order = 60  # after the recorder, which has the accuracy

    def __init__(self, clock: StepClock) -> None:
        self.clock = clock

    def after_batch(self) -> None:
        if self.training:
            self.clock.images += len(self.x)

    def after_epoch(self) -> None:
        self.clock.mark(float(self.recorder.values[-1][-1]))


def main() -> None:
    setting = given()
    clock = StepClock()
    images = sum(1 for _ in Path(setting.data).glob("train/*/*"))
    data = ImageDataLoaders.from_folder(
        setting.data,
        train="train",
        valid="val",
        bs=min(64, images // 2),
        item_tfms=Resize(setting.resize),
        batch_tfms=[
            *aug_transforms(size=setting.size),
            Normalize.from_stats(setting.mean, setting.std),
        ],
        num_workers=setting.threads,
        seed=setting.seed,
        device="cpu",
    )
    body = nn.Sequential(pretrained(setting).features)
    channels = [m for m in body.modules() if isinstance(m, nn.Conv2d)][-1].out_channels
    head = create_head(channels, len(setting.labels))
    apply_init(head, nn.init.kaiming_normal_)
    learner = Learner(
        data,
        nn.Sequential(body, head),
        loss_func=CrossEntropyLossFlat(),
        metrics=accuracy,
        splitter=lambda model: [params(model[0]), params(model[1])],
        cbs=[Marks(clock)],
    )
    with learner.no_bar(), learner.no_logging():
        learner.fine_tune(setting.epochs["fastai"])
    leave([clock.result("fastai", len(data.valid_ds))])


if __name__ == "__main__":
    sys.exit(main())
