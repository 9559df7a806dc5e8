# ALA, ResNet-50, 1x (ALA, tables 1 to 12). networks.r50.pretrained=... (Caffe-style weights)
_base_ = ["./_base_/coco.py", "./_base_/schedule_fcos_1x.py", "./_base_/heads.py"]
networks = dict(
    r50=dict(config="mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py", model=_base_._ala)
)
assigner = dict(type="ALA")
