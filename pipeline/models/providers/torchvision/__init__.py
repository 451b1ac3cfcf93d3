"""torchvision's classifiers as backbones."""

from pipeline.models.providers.torchvision.provider import TorchvisionProvider

PROVIDER = TorchvisionProvider()
