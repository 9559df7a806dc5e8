# PAA, ResNet-101, 1x: the teacher of lad_r50_r101_1x.py.
# Backbone weights: networks.r101.pretrained=...
_base_ = ["./_base_/coco.py", "./_base_/schedule_1x.py"]
networks = dict(r101=dict(config="mmdet::paa/paa_r101_fpn_1x_coco.py"))
assigner = dict(type="PAA")
