"""Every preset: shares its method's grid, gives each parameter a gradient, predicts."""

import pytest
import torch
from torch import nn

pytest.importorskip("mmdet")

from mmdet.registry import MODELS  # noqa: E402

from models.presets import PRESETS, tiny_paa  # noqa: E402

from .detector_cases import build_detector, make_sample, total, two_images  # noqa: E402

METHODS = {preset(2).bbox_head.type: name for name, preset in reversed(PRESETS.items())}
"""Type of the head -> the first preset that has it."""


def assert_gradients(detector: nn.Module) -> None:
    """As DistributedDataParallel without search for unused parameters requires."""
    for name, parameter in detector.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@pytest.mark.parametrize("preset", list(PRESETS))
def test_every_parameter_has_a_finite_gradient_without_gts(preset: str) -> None:
    detector = build_detector(PRESETS[preset](2))
    images, _ = two_images()
    losses = detector.loss(images, [make_sample([], []), make_sample([], [])])
    assert total(losses) > 0
    total(losses).backward()
    assert_gradients(detector)


@pytest.mark.parametrize("preset", METHODS.values())
def test_every_parameter_has_a_finite_gradient_with_one_empty_image(preset: str) -> None:
    detector = build_detector(PRESETS[preset](2))
    images, samples = two_images()
    total(detector.loss(images, [make_sample([], []), samples[1]])).backward()
    assert_gradients(detector)


def test_presets_of_a_method_share_one_grid() -> None:
    grids: dict[str, set[str]] = {}
    for preset in PRESETS.values():
        config = preset(4).bbox_head
        generator = MODELS.build(config).prior_generator
        grids.setdefault(config.type, set()).add(repr(generator))
    assert all(len(grid) == 1 for grid in grids.values()), grids


@pytest.mark.parametrize("preset", METHODS.values())
def test_predicts(preset: str) -> None:
    detector = build_detector(PRESETS[preset](4)).eval()
    images, samples = two_images()
    with torch.no_grad():
        results = detector.predict(images, samples)
    assert all(len(result.pred_instances) <= 100 for result in results)


def test_only_basic_resnets() -> None:
    with pytest.raises(ValueError, match="depth must be 18 or 34"):
        tiny_paa(4, depth=50)
