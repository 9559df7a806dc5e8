# DW, ResNeXt-101-64x4d, 2x with multi-scale training (DW, table 7). networks.x101.pretrained=...
_base_ = ["./_base_/dw_2x_ms.py"]
networks = dict(
    x101=dict(
        config="mmdet::atss/atss_r50_fpn_1x_coco.py",
        model=dict(**_base_._x101, **_base_._dw),
    )
)
