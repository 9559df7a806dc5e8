# PAA, ResNet-18, 1x (LAD paper, tables 6 and 10). Backbone weights: networks.r18.pretrained=...
_base_ = ["./_base_/coco.py", "./_base_/schedule_1x.py", "./_base_/backbones.py"]
networks = dict(r18=dict(config="mmdet::paa/paa_r50_fpn_1x_coco.py", model=_base_._r18))
assigner = dict(type="PAA")
