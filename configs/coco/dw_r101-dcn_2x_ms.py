# DW, ResNet-101 with DCN, 2x with multi-scale training (DW, table 7). networks.r101.pretrained=...
# With box refinement: dw_refine_r101-dcn_2x_ms.py
_base_ = ["./_base_/dw_2x_ms.py"]
networks = dict(
    r101=dict(
        config="mmdet::atss/atss_r101_fpn_1x_coco.py",
        model=dict(**_base_._r101_dcn, **_base_._dw),
    )
)
