# ALA, ResNet-101, 2x with multi-scale training (ALA, table XIII).
# networks.r101.pretrained=... (Caffe-style weights)
_base_ = ["./_base_/ala_2x_ms.py"]
networks = dict(
    r101=dict(
        config="mmdet::fcos/fcos_r101-caffe_fpn_gn-head_ms-640-800-2x_coco.py", model=_base_._ala
    )
)
