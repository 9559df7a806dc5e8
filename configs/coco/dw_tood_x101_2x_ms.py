# DW on TOOD's head, ResNeXt-101-64x4d, 2x with multi-scale training (DW, table 7).
# networks.x101.pretrained=...
_base_ = ["./_base_/dw_2x_ms.py"]
networks = dict(
    x101=dict(config="mmdet::tood/tood_x101-64x4d_fpn_ms-2x_coco.py", model=_base_._dw_tood)
)
