# MuSu with three priors per location, ResNet-101, 2x with multi-scale training (MuSu, table 6).
# networks.r101.pretrained=... (Caffe-style weights)
_base_ = ["./_base_/coco_ms.py", "./_base_/schedule_180k.py", "./_base_/heads.py"]
networks = dict(
    r101=dict(
        config="mmdet::fcos/fcos_r101-caffe_fpn_gn-head_ms-640-800-2x_coco.py",
        model=_base_._musu_three,
    )
)
assigner = dict(type="MuSu")
