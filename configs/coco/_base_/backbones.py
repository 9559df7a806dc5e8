# Fields of a `model` that put another backbone into an mmdet configuration with ResNet-50 and FPN:
# networks = dict(x=dict(config="mmdet::...", model=_base_._x101)). Weights: networks.x.pretrained.
_rgb = dict(  # what torchvision's and most other weights expect; some of mmdet's configs have BGR
    type="DetDataPreprocessor",
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    bgr_to_rgb=True,
    pad_size_divisor=32,
)
_dcn_v2 = dict(type="DCNv2", deform_groups=1, fallback_on_stride=False)
_resnext = dict(
    type="ResNeXt",
    depth=101,
    groups=64,
    base_width=4,
    norm_cfg=dict(type="BN", requires_grad=True),
    style="pytorch",
    init_cfg=dict(type="Pretrained", checkpoint="open-mmlab://resnext101_64x4d"),
)

_r18 = dict(
    backbone=dict(depth=18, init_cfg=dict(type="Pretrained", checkpoint="torchvision://resnet18")),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
_r101_caffe = dict(
    backbone=dict(
        depth=101,
        init_cfg=dict(type="Pretrained", checkpoint="open-mmlab://detectron2/resnet101_caffe"),
    )
)
_x101 = dict(data_preprocessor=_rgb, backbone=_resnext)
# The stages with deformable convolutions are those of mmdet's TOOD and GFL configurations: all
# but the first in ResNet-101, the last two in ResNeXt-101.
_r101_dcn = dict(backbone=dict(dcn=_dcn_v2, stage_with_dcn=(False, True, True, True)))
_x101_dcn = dict(
    data_preprocessor=_rgb,
    backbone=dict(**_resnext, dcn=_dcn_v2, stage_with_dcn=(False, False, True, True)),
)
_swin_b = dict(
    data_preprocessor=_rgb,
    backbone=dict(
        _delete_=True,
        type="SwinTransformer",
        embed_dims=128,
        depths=[2, 2, 18, 2],
        num_heads=[4, 8, 16, 32],
        window_size=7,
        drop_path_rate=0.3,
        out_indices=(1, 2, 3),
        convert_weights=True,  # pretrained is a file of the Swin authors
    ),
    neck=dict(in_channels=[256, 512, 1024], start_level=0),
)
_effnet_b0 = dict(
    data_preprocessor=_rgb,
    backbone=dict(
        _delete_=True,
        type="EfficientNet",
        arch="b0",
        out_indices=(3, 4, 5),
        norm_cfg=dict(type="BN", requires_grad=True, eps=1e-3, momentum=0.01),
        norm_eval=True,
    ),
    neck=dict(in_channels=[40, 112, 320], start_level=0),
)
