"""torchvision's detectors and segmenters by name: their published weights, all but the
layers that depend on classes.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torchvision.models.detection.image_list import ImageList

from dense_networks import BOXES, SIDE
from pipeline.config_section import TaskConfig
from pipeline.errors import BackboneError, ConfigError
from pipeline.models.providers.torchvision import (
    backbones,
    dense_network,
    whole_weights,
)
from pipeline.models.providers.torchvision.dense_network import (
    HeadKind,
    TorchvisionDenseNetwork,
)
from pipeline.models.providers.torchvision.whole_networks import WHOLE_NETWORKS
from pipeline.models.weights import WeightsContent
from pipeline.objectives.box_loss import BoxLoss
from pipeline.objectives.box_targets import BoxTargets, PictureBoxes
from pipeline.objectives.pixel_loss import PixelLoss
from pipeline.records import BackboneRecord, ImageInputSpec
from pipeline.serving import feature_maps, pixel_head
from pipeline.serving.box_head import NO_BOX, BoxHead
from pipeline.tasks import catalog
from pipeline.tasks.object_detection import network as box_network
from pipeline.tasks.object_detection.head_settings import BoxHeadConfig
from pipeline.tasks.object_detection.settings import ObjectDetectionConfig
from pipeline.tasks.semantic_segmentation import network as pixel_network
from pipeline.tasks.semantic_segmentation.settings import SemanticSegmentationConfig
from pipeline.tensors import Batch, TensorGroup, single_tensor
from published_networks import (
    CLASSES,
    State,
    fetch,
    published_state,
    stock_network,
    used_weights,
)

LABELS = ("background", "one", "two")
LIGHT_SEGMENTER = "lraspp_mobilenet_v3_large"
LIGHT_DEEPLAB = "deeplabv3_mobilenet_v3_large"
WHOLE_HEAD = BoxHeadConfig(score_threshold=0.0, proposals=300, detections=100)
LIGHT_DETECTOR = "fasterrcnn_mobilenet_v3_large_320_fpn"
HEAVY = ("deeplabv3_resnet50", "fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2")


def pictures(count: int = 2, side: int = SIDE) -> Tensor:
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(1))


def design_of(
    record: BackboneRecord, task: str, config: TaskConfig, side: int = SIDE
) -> dict[str, Any]:
    """What the task makes of a backbone; as it is saved, it is JSON."""
    train: Any = None  # a network that is used whole asks nothing of the training data
    spec = ImageInputSpec(size=side, resize=side)
    design = catalog.find(task).network.design(train, LABELS, spec, config, record)
    assert json.loads(json.dumps(design)) == design
    return design


def segmenter_of(record: BackboneRecord, **options: Any) -> TorchvisionDenseNetwork:
    design = design_of(record, "semantic-segmentation", SemanticSegmentationConfig())
    network: Any = catalog.find("semantic-segmentation").network.build(
        record, LABELS, design=design, **options
    )
    network.stock.eval()
    return network


def detector_of(record: BackboneRecord, **options: Any) -> TorchvisionDenseNetwork:
    design = design_of(
        record,
        "object-detection",
        ObjectDetectionConfig(head=WHOLE_HEAD),
    )
    network: Any = catalog.find("object-detection").network.build(
        record, LABELS[1:], design=design, **options
    )
    network.stock.eval()
    return network


def with_published_head(
    design: dict[str, Any], classes: int, kind: HeadKind, state: State
) -> TorchvisionDenseNetwork:
    """The network with all of the published weights, its last layers too."""
    network = dense_network.build_network(design, classes, kind, seed=0)
    differences = network.stock.load_state_dict(
        used_weights(network.architecture, state), strict=False
    )
    assert all(
        name.endswith("num_batches_tracked") for name in differences.missing_keys
    )
    assert not differences.unexpected_keys
    network.stock.eval()
    return network


def check_weights(network: TorchvisionDenseNetwork, state: State) -> None:
    """What belongs to no class is the published network's; what belongs to one is not."""
    own = network.stock.state_dict()
    published = used_weights(network.architecture, state)
    assert set(published) == {
        name for name in own if not name.endswith("num_batches_tracked")
    }
    for name, value in published.items():
        if name in network.class_rows:
            assert own[name].shape[0] == network.class_rows[name].count(network.classes)
        else:
            assert torch.equal(own[name], value), name
    assert network.class_rows


def check_blocks(network: TorchvisionDenseNetwork, record: BackboneRecord) -> None:
    """They are those of the record, and own every parameter once."""
    assert tuple(network.names) == record.blocks
    owned = [name for block in network.blocks for name, _ in block.named_parameters()]
    assert sorted(owned) == sorted(name for name, _ in network.stock.named_parameters())


def assert_close(values: Tensor, expected: Tensor) -> None:
    """The same to 1e-5 of the largest, or to 1e-5 where all are small."""
    largest = max(1.0, float(expected.abs().max()))
    assert float((values - expected).abs().max()) < 1e-5 * largest


def check_segmenter(architecture: str, tmp_path: Path) -> None:
    state = published_state(architecture)
    record = fetch(architecture, state, tmp_path)
    assert (record.architecture, record.classes) == (architecture, CLASSES["segmenter"])
    network = segmenter_of(record)
    check_weights(network, state)
    check_blocks(network, record)
    design = dense_network.find_whole_design(architecture, SIDE)
    whole = with_published_head(
        design, CLASSES["segmenter"], pixel_network.head_kind(), state
    )
    x = pictures()
    with torch.inference_mode():
        expected = stock_network(architecture, state)(x.clone())["out"]
        assert_close(single_tensor(whole.run(x.clone())), expected)
        assert expected.abs().max() > 1e-2


def check_detector(architecture: str, tmp_path: Path) -> None:
    state = published_state(architecture)
    record = fetch(architecture, state, tmp_path)
    assert (record.architecture, record.classes) == (
        architecture,
        CLASSES["detector"] - 1,
    )
    network = detector_of(record)
    check_weights(network, state)
    check_blocks(network, record)
    design = design_of(
        record,
        "object-detection",
        ObjectDetectionConfig(head=WHOLE_HEAD),
    )
    whole: Any = with_published_head(
        design, CLASSES["detector"] - 1, box_network.head_kind(), state
    )
    stock: Any = stock_network(
        architecture,
        state,
        min_size=SIDE,
        max_size=SIDE,
        image_mean=[0.0] * 3,
        image_std=[1.0] * 3,
        rpn_pre_nms_top_n_test=design["proposals"][0],
        rpn_post_nms_top_n_test=design["proposals"][1],
        rpn_score_thresh=0.0,
        box_score_thresh=0.0,
    )
    x = pictures()
    with torch.inference_mode():
        check_parts(stock, whole, x)
        answers = single_tensor(whole.run(x.clone()))
        for answer, expected in zip(answers, stock(list(x)), strict=True):
            check_detections(answer, expected)


def check_parts(stock: Any, whole: Any, x: Tensor) -> None:
    """Every map, anchor, proposal and judgement of a region."""
    levels = list(stock.backbone(x).values())
    own_levels = whole.maps(x)
    assert [level.shape for level in own_levels] == [level.shape for level in levels]
    for level, own in zip(levels, own_levels, strict=True):
        assert_close(own, level)
    proposed = whole.head.propose(own_levels)
    images = ImageList(x, [(SIDE, SIDE)] * len(x))
    for anchors, own in zip(
        stock.rpn.anchor_generator(images, levels), proposed.anchors, strict=True
    ):
        assert torch.equal(anchors, own)
    named = stock.backbone(x)
    boxes, _ = stock.rpn(images, named)
    for some, own in zip(boxes, proposed.boxes, strict=True):
        assert some.shape == own.shape
    logits, deltas = whole.head.classify(proposed.levels, boxes)
    pooled = stock.roi_heads.box_head(
        stock.roi_heads.box_roi_pool(named, boxes, images.image_sizes)
    )
    expected_logits, expected_deltas = stock.roi_heads.box_predictor(pooled)
    assert_close(logits, expected_logits)
    assert_close(deltas, expected_deltas)


def check_detections(answer: Tensor, expected: dict[str, Tensor]) -> None:
    """The same boxes, scores and classes; torchvision counts the background as class 0."""
    count = len(expected["scores"])
    assert count > 10
    assert (answer[:count, 4] - expected["scores"]).abs().max() < 1e-3
    assert (answer[count:, 4] == NO_BOX).all()
    shares = []  # those of nearly the same score may have changed places
    for box, label in zip(expected["boxes"], expected["labels"], strict=True):
        is_near = (answer[:count, :4] - box).abs().amax(1) < 1e-2
        shares.append(bool((is_near & (answer[:count, 5] == label - 1)).any()))
    assert sum(shares) > 0.9 * count


def check_network(architecture: str, tmp_path: Path) -> None:
    check = (
        check_segmenter
        if WHOLE_NETWORKS[architecture].kind == "segmenter"
        else check_detector
    )
    check(architecture, tmp_path)


@pytest.mark.parametrize(
    "architecture",
    [
        LIGHT_SEGMENTER,
        pytest.param(LIGHT_DEEPLAB, marks=pytest.mark.slow),
        pytest.param(LIGHT_DETECTOR, marks=pytest.mark.slow),
    ],
)
def test_a_network_answers_as_torchvisions_own_until_its_last_layers_are_new(
    architecture: str, tmp_path: Path
) -> None:
    check_network(architecture, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", HEAVY)
def test_so_does_a_heavier_one(architecture: str, tmp_path: Path) -> None:
    check_network(architecture, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize(
    "architecture",
    sorted(
        set(WHOLE_NETWORKS) - {LIGHT_SEGMENTER, LIGHT_DEEPLAB, LIGHT_DETECTOR, *HEAVY}
    ),
)
def test_so_does_every_other(architecture: str, tmp_path: Path) -> None:
    check_network(architecture, tmp_path)


@pytest.fixture(scope="module")
def lraspp(tmp_path_factory: pytest.TempPathFactory) -> BackboneRecord:
    return fetch(
        "lraspp_mobilenet_v3_large",
        published_state("lraspp_mobilenet_v3_large"),
        tmp_path_factory.mktemp("lraspp"),
    )


@pytest.fixture(scope="module")
def deeplab(tmp_path_factory: pytest.TempPathFactory) -> BackboneRecord:
    return fetch(
        "deeplabv3_mobilenet_v3_large",
        published_state("deeplabv3_mobilenet_v3_large"),
        tmp_path_factory.mktemp("deeplab"),
    )


@pytest.fixture(scope="module")
def rcnn(tmp_path_factory: pytest.TempPathFactory) -> BackboneRecord:
    return fetch(
        LIGHT_DETECTOR, published_state(LIGHT_DETECTOR), tmp_path_factory.mktemp("rcnn")
    )


def check_cuts(network: TorchvisionDenseNetwork) -> None:
    """Cut at any block, as a cache cuts it, the network answers the same."""
    x = pictures()
    with torch.inference_mode():
        whole = network.run(x)
        kept: Batch = x
        for stop in range(1, len(network.blocks)):
            kept = network.run(kept, stop - 1, stop)
            answers = single_tensor(network.run(kept, stop))
            assert torch.equal(answers, single_tensor(whole)), stop


def test_cut_at_any_block_a_segmenter_answers_the_same(lraspp: BackboneRecord) -> None:
    network = segmenter_of(lraspp)
    check_cuts(network)
    assert network.names == [f"features.{number}" for number in range(17)] + ["head"]
    behind = network.run(pictures(), 0, 17)
    assert isinstance(behind, TensorGroup)
    assert set(behind.tensors) == {"features.4", "features.16"}


@pytest.mark.slow
def test_cut_at_any_block_a_detector_answers_the_same(rcnn: BackboneRecord) -> None:
    network = detector_of(rcnn)
    check_cuts(network)
    assert network.names[-3:] == ["features.16", "neck", "head"]
    behind = network.run(pictures(), 0, len(network.blocks) - 1)
    assert isinstance(behind, TensorGroup)
    assert set(behind.tensors) == {"level0", "level1", "level2"}


def test_random_weights_are_none_of_the_published_ones(lraspp: BackboneRecord) -> None:
    scratch = segmenter_of(lraspp, pretrained=False, seed=3).stock.state_dict()
    again = segmenter_of(lraspp, pretrained=False, seed=3).stock.state_dict()
    published = segmenter_of(lraspp).stock.state_dict()
    assert all(torch.equal(scratch[name], again[name]) for name in scratch)
    convolutions = [name for name in scratch if scratch[name].ndim == 4]
    assert not any(
        torch.equal(scratch[name], published[name])
        for name in convolutions
        if name.startswith("body")
    )


def test_new_layers_follow_from_the_seed_and_the_others_do_not(
    lraspp: BackboneRecord,
) -> None:
    one = segmenter_of(lraspp, seed=1)
    other = segmenter_of(lraspp, seed=2).stock.state_dict()
    differing = {
        name
        for name, value in one.stock.state_dict().items()
        if not torch.equal(value, other[name])
    }
    assert differing == set(one.class_rows)


@pytest.mark.slow
def test_a_segmenter_is_served_from_its_design_alone(deeplab: BackboneRecord) -> None:
    network = segmenter_of(deeplab)
    design = design_of(deeplab, "semantic-segmentation", SemanticSegmentationConfig())
    body = feature_maps.build_body(design).eval()
    head = pixel_head.build_head(len(LABELS), design).eval()
    body.load_state_dict(network.stock.get_submodule("body").state_dict(), strict=True)
    head.load_state_dict(network.stock.get_submodule("head").state_dict(), strict=True)
    x = pictures()
    with torch.inference_mode():
        maps = feature_maps.order_maps(body(x.clone()), design["maps"])
        assert torch.equal(head(maps), single_tensor(network.run(x.clone())))


@pytest.mark.slow
def test_a_batch_of_one_picture_can_be_trained(deeplab: BackboneRecord) -> None:
    """PyTorch refuses to normalise one value a channel, which is what DeepLab's pooling
    to a point leaves of a picture.
    """
    network = segmenter_of(deeplab)
    network.stock.train()
    loss = PixelLoss()(
        network, pictures(1), 0, torch.zeros(1, SIDE, SIDE, dtype=torch.uint8)
    )
    loss.backward()  # type: ignore[no-untyped-call]
    assert loss.isfinite()
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        stock_network(
            network.architecture, published_state(network.architecture)
        ).train()(pictures(1))


@pytest.mark.slow
def test_dropout_follows_from_the_steps_seed(deeplab: BackboneRecord) -> None:
    network = segmenter_of(deeplab)
    network.blocks[-1].train()
    for module in network.stock.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.training = False
    answers = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        with torch.inference_mode():
            answers.append(single_tensor(network.run(pictures())))
    assert torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[0], answers[2])


@pytest.mark.slow
def test_a_detector_is_served_from_its_design_alone(rcnn: BackboneRecord) -> None:
    network = detector_of(rcnn)
    design = design_of(
        rcnn,
        "object-detection",
        ObjectDetectionConfig(head=WHOLE_HEAD),
    )
    body = feature_maps.build_body(design).eval()
    head = BoxHead(len(LABELS) - 1, design).eval()
    body.load_state_dict(network.stock.get_submodule("body").state_dict(), strict=True)
    head.load_state_dict(network.stock.get_submodule("head").state_dict(), strict=True)
    x = pictures()
    with torch.inference_mode():
        maps = feature_maps.order_maps(body(x.clone()), design["maps"])
        assert torch.equal(
            head.detect(head.merge(maps)), single_tensor(network.run(x.clone()))
        )


@pytest.mark.slow
def test_a_detectors_loss_is_the_same_behind_its_kept_neck(
    rcnn: BackboneRecord,
) -> None:
    network = detector_of(rcnn)
    boxes = np.array([[4, 4, 40, 30], [20, 20, 60, 60]], np.float32)
    truth = PictureBoxes(
        boxes, np.array([0, 1]), np.zeros(2, np.bool_), SIDE, SIDE, seed=7
    )
    targets = BoxTargets([truth])
    x = pictures(1)
    with torch.no_grad():
        whole = BoxLoss()(network, x, 0, targets)
        for stop in (1, len(network.blocks) - 2, len(network.blocks) - 1):
            kept = network.run(x, 0, stop)
            assert torch.equal(BoxLoss()(network, kept, stop, targets), whole), stop
    assert whole.isfinite()


def test_a_region_head_with_normalisation_survives_a_picture_in_which_nothing_counts(
    tmp_path: Path,
) -> None:
    design = dense_network.find_whole_design("fasterrcnn_resnet50_fpn_v2", SIDE)
    settings = {name: BOXES[name] for name in BOXES if name not in design}
    head = BoxHead(2, {**design, **settings}).train()
    levels = {name: torch.zeros(1, 256, 4, 4) for name in head.level_names}
    logits, deltas = head.classify(levels, [torch.zeros(0, 4)])
    assert (logits.shape, deltas.shape) == ((0, 3), (0, 12))
    assert all(buffer.isfinite().all() for buffer in head.buffers())


@pytest.mark.slow
@pytest.mark.parametrize("architecture", [LIGHT_DETECTOR, "fasterrcnn_resnet50_fpn"])
def test_a_detector_can_be_trained_from_scratch(architecture: str) -> None:
    """With statistics that move, from random weights; pictures of one grey, whose
    variance is nothing, included.
    """
    settings = {
        name: BOXES[name]
        for name in ("proposals", "sampled_anchors", "sampled_regions", "detections")
    }
    thresholds = {"score_threshold": 0.0, "overlap_threshold": 0.5}
    design = {
        **dense_network.find_whole_design(architecture, SIDE),
        **settings,
        **thresholds,
    }
    network = dense_network.build_network(design, 2, box_network.head_kind(), seed=0)
    network.stock.train()
    truth = PictureBoxes(
        np.array([[4, 4, 40, 30]], np.float32),
        np.zeros(1, np.int64),
        np.zeros(1, np.bool_),
        SIDE,
        SIDE,
    )
    for x in (pictures(), torch.ones(2, 3, SIDE, SIDE)):
        loss = BoxLoss()(network, x, 0, BoxTargets([truth, truth]))
        loss.backward()  # type: ignore[no-untyped-call]
        assert loss.isfinite()
        assert all(
            one.grad is None or one.grad.isfinite().all()
            for one in network.stock.parameters()
        )


@pytest.mark.slow
def test_layers_named_as_before_are_understood(tmp_path: Path) -> None:
    """Files from before the pyramid's and the proposals' convolutions were numbered, as
    the first published one is.
    """
    state = published_state(LIGHT_DETECTOR)
    old = {}
    for name, value in state.items():
        renamed = name.replace("rpn.head.conv.0.0.", "rpn.head.conv.")
        for kind in ("inner_blocks", "layer_blocks"):
            for level in range(2):
                renamed = renamed.replace(f"{kind}.{level}.0.", f"{kind}.{level}.")
        old[renamed] = value
    assert set(old) != set(state)
    check_weights(detector_of(fetch(LIGHT_DETECTOR, old, tmp_path)), state)


class TestRefusals:
    def refusal(self, call: Callable[[], object]) -> ConfigError:
        with pytest.raises(ConfigError) as caught:
            call()
        return caught.value

    @pytest.mark.slow
    def test_weights_of_another_network_are_named(self) -> None:
        state = published_state("lraspp_mobilenet_v3_large")
        for architecture in ("deeplabv3_mobilenet_v3_large", "mobilenet_v3_large"):
            with pytest.raises(
                BackboneError, match="it looks like lraspp_mobilenet_v3_large"
            ):
                backbones.fit_weights(
                    architecture, WeightsContent(state, {}), "file.pth"
                )

    def test_a_picture_that_becomes_a_point_is_too_small(self) -> None:
        fault = self.refusal(
            lambda: dense_network.find_whole_design("lraspp_mobilenet_v3_large", 16)
        )
        assert fault.subject == "task.input.size"

    def test_the_published_files_name_is_torchvisions(self) -> None:
        for architecture in WHOLE_NETWORKS:
            assert backbones.published_url(architecture).endswith(".pth")
            assert whole_weights.count_classes(architecture, {}) == 2
