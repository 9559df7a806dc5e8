# CoLAD, ResNet-50 and ResNet-101 together from ImageNet weights, 2x (LAD paper, table 5).
_base_ = ["./_base_/coco.py", "./_base_/schedule_2x.py"]
networks = dict(
    r101=dict(config="mmdet::paa/paa_r101_fpn_1x_coco.py"),
    r50=dict(config="mmdet::paa/paa_r50_fpn_1x_coco.py"),
)
assigner = dict(type="PAA")
switch = dict(criterion="std_mean", scope="gt_level")
