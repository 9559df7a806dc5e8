# AutoAssign, ResNet-101, 2x with multi-scale training (AutoAssign, table 6).
# networks.r101.pretrained=... (Caffe-style weights)
_base_ = [
    "./_base_/coco_ms.py",
    "./_base_/schedule_autoassign_180k.py",
    "./_base_/backbones.py",
]
networks = dict(
    r101=dict(
        config="mmdet::autoassign/autoassign_r50-caffe_fpn_1x_coco.py", model=_base_._r101_caffe
    )
)
assigner = dict(type="AutoAssign")
