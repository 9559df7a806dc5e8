# PAA, ResNet-50, 1x. Backbone weights: --set networks.r50.pretrained=RESNET50.pth
_base_ = ["./_base_/coco.py", "./_base_/schedule_1x.py"]
networks = dict(r50=dict(config="mmdet::paa/paa_r50_fpn_1x_coco.py"))
assigner = dict(type="PAA")
