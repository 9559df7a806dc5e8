# PAA, ResNet-50, 3x with multi-scale training: what CoLAD starts from in the LAD paper's table 7.
# Backbone weights: networks.r50.pretrained=...
_base_ = ["./_base_/coco_ms.py", "./_base_/schedule_3x.py"]
networks = dict(r50=dict(config="mmdet::paa/paa_r50_fpn_1x_coco.py"))
assigner = dict(type="PAA")
