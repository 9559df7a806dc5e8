# ALA, ResNeXt-101-64x4d, 2x with multi-scale training (ALA, table XIII).
# networks.x101.pretrained=...
_base_ = ["./_base_/ala_2x_ms.py"]
networks = dict(
    x101=dict(
        config="mmdet::fcos/fcos_x101-64x4d_fpn_gn-head_ms-640-800-2x_coco.py", model=_base_._ala
    )
)
