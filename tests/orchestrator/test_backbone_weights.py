"""ImageNet weights: what a classifier has and a backbone lacks, and the other way round."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from orchestrator.backbone_weights import load_backbone
from orchestrator.building import build_detector, register_mmdet
from orchestrator.config import NetworkConfig
from orchestrator.errors import CheckpointError

DCN = dict(type="DCNv2", deform_groups=1, fallback_on_stride=False)
SWIN = dict(
    type="SwinTransformer",
    embed_dims=12,
    depths=(2, 2, 2, 2),
    num_heads=(1, 1, 2, 2),
    out_indices=(1, 2, 3),
)


def build(**config: Any) -> nn.Module:
    from mmdet.registry import MODELS

    register_mmdet()
    module: nn.Module = MODELS.build(config)
    module.init_weights()
    return module


def resnet(**fields: Any) -> nn.Module:
    return build(type="ResNet", depth=50, base_channels=4, **fields)


def swin_authors_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """mmdet's keys and orders as in the files of the Swin authors, with their classifier."""
    renamed = {}
    for key, value in state.items():
        if key.startswith("norm"):
            continue
        if "downsample" in key:  # mmdet's order of a 2 x 2 patch: by channel, then by pixel
            patches = value.unflatten(-1, (-1, 4)).transpose(-1, -2)  # (..., 4, channels)
            value = patches[..., [0, 2, 1, 3], :].flatten(-2)
        for ours, theirs in (
            ("stages.", "layers."),
            ("attn.w_msa.", "attn."),
            ("ffn.layers.0.0.", "mlp.fc1."),
            ("ffn.layers.1.", "mlp.fc2."),
            ("patch_embed.projection", "patch_embed.proj"),
        ):
            key = key.replace(ours, theirs)
        renamed[key] = value
    return {**renamed, "norm.weight": torch.ones(96), "head.weight": torch.ones(9, 96)}


def test_a_plain_network_starts_a_deformable_one() -> None:
    plain = resnet()
    deformable = resnet(dcn=DCN, stage_with_dcn=(False, True, True, True))
    state = {**plain.state_dict(), "fc.weight": torch.ones(3, 4)}
    load_backbone(deformable, state, what="w")
    own = deformable.state_dict()
    assert all(torch.equal(own[key], value) for key, value in plain.state_dict().items())
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():  # no offsets, a modulation of one half
        for layer in deformable.modules():
            if hasattr(layer, "conv_offset"):
                layer.weight.mul_(2)
        plain.eval(), deformable.eval()
        for left, right in zip(plain(images), deformable(images)):
            torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_weights_of_another_backbone_are_refused() -> None:
    state = resnet().state_dict()
    with pytest.raises(CheckpointError, match="missing"):
        load_backbone(resnet(), {k: v for k, v in state.items() if "layer4" not in k}, what="w")
    with pytest.raises(CheckpointError, match="missing"):
        load_backbone(build(**SWIN), state, what="w")


@pytest.mark.parametrize("wrapped", [False, True])
def test_the_swin_authors_files_load(wrapped: bool, tmp_path: Path) -> None:
    """Through ``networks.X.pretrained``; the output norms stay as they were built."""
    known = build(**SWIN)
    with torch.no_grad():
        for index, parameter in enumerate(known.parameters()):
            parameter.normal_(generator=torch.Generator().manual_seed(index))
    file = tmp_path / "swin.pth"
    names = swin_authors_names(known.state_dict())
    torch.save({"model": names} if wrapped else names, file)
    fields = dict(
        backbone=dict(_delete_=True, **SWIN, convert_weights=True),
        neck=dict(in_channels=[24, 48, 96], start_level=0),
    )
    config = NetworkConfig(preset="tiny_r18", model=fields, pretrained=str(file))
    detector, _ = build_detector("a", config, num_classes=3, seed=0)
    loaded = detector.get_submodule("backbone").state_dict()
    for key, value in known.state_dict().items():
        if key.startswith("norm"):
            assert torch.equal(loaded[key], torch.full_like(value, key.endswith("weight")))
        else:
            assert torch.equal(loaded[key], value), key


def test_swin_weights_in_mmdets_names_need_no_conversion() -> None:
    known, target = build(**SWIN), build(**SWIN, convert_weights=True)
    prefixed = {f"backbone.{key}": value for key, value in known.state_dict().items()}
    load_backbone(target, prefixed, what="w")
    own = target.state_dict()
    assert all(torch.equal(own[key], value) for key, value in known.state_dict().items())
