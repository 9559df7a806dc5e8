# CoLAD, ResNet-18 and ResNet-50 together from ImageNet weights (LAD paper, table 6).
_base_ = ["./_base_/coco.py", "./_base_/schedule_1x.py", "./_base_/backbones.py"]
networks = dict(
    r50=dict(config="mmdet::paa/paa_r50_fpn_1x_coco.py"),
    r18=dict(config="mmdet::paa/paa_r50_fpn_1x_coco.py", model=_base_._r18),
)
assigner = dict(type="PAA")
switch = dict(criterion="std_mean", scope="gt_level")
