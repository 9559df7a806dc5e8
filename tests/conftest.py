"""Shared by all tests."""

import importlib.util
import warnings

import torch

torch.set_num_threads(1)  # tiny tensors: more threads cost time and change nothing

if importlib.util.find_spec("mmdet") is not None:
    # mmdet, mmcv and mmengine warn while they are imported; our own warnings stay errors.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from mmdet.utils import register_all_modules

        import models  # noqa: F401

        register_all_modules()
