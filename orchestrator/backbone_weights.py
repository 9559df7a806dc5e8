"""ImageNet weights for a backbone: names of other authors, layers that ImageNet does not have."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from orchestrator.weights import load_into

PREFIX = "backbone."
OFFSETS = "*.conv_offset.*"
"""Of deformable convolutions, whose offsets start at 0."""
SWIN_OUTPUT_NORMS = "norm[0-9].*"
"""Of the maps that a Swin transformer hands to the neck; a classifier has none."""


def load_backbone(backbone: nn.Module, state: Mapping[str, Tensor], *, what: str) -> None:
    """Copy the weights of a classifier (or of a whole detector) into a backbone.

    Keys that the backbone lacks (the classifier's last layer) are left out. It may have two things
    that the weights lack: offsets of deformable convolutions and a Swin transformer's output norms.

    Args:
        state: keys as in mmdet's backbone, also with ``backbone.`` in front, or as in the Swin
            authors' files where the backbone is a Swin transformer with ``convert_weights=True``.
        what: what is loaded, for the message.

    Raises:
        CheckpointError: keys are missing or of other shapes; the backbone is unchanged.
    """
    from mmdet.models.backbones.swin import SwinTransformer, swin_converter

    may_lack = [OFFSETS]
    if isinstance(backbone, SwinTransformer):
        may_lack.append(SWIN_OUTPUT_NORMS)
        if backbone.convert_weights and any(key.startswith("layers.") for key in state):
            state = swin_converter(state)
    if any(key.startswith(PREFIX) for key in state):
        state = {k.removeprefix(PREFIX): v for k, v in state.items() if k.startswith(PREFIX)}
    known = backbone.state_dict()
    fitting = {key: value for key, value in state.items() if key in known}
    load_into(backbone, fitting, what=what, allow_missing=may_lack)
