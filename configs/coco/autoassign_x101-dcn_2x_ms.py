# AutoAssign, ResNeXt-101-64x4d with DCN, 2x with multi-scale training (AutoAssign, table 6).
# networks.x101.pretrained=...
_base_ = [
    "./_base_/coco_ms.py",
    "./_base_/schedule_autoassign_180k.py",
    "./_base_/backbones.py",
]
networks = dict(
    x101=dict(
        config="mmdet::autoassign/autoassign_r50-caffe_fpn_1x_coco.py", model=_base_._x101_dcn
    )
)
assigner = dict(type="AutoAssign")
