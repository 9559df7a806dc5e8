# AutoAssign, ResNet-50, 1x (AutoAssign, table 1). networks.r50.pretrained=... (Caffe-style weights)
_base_ = ["./_base_/coco.py", "./_base_/schedule_autoassign_90k.py"]
networks = dict(r50=dict(config="mmdet::autoassign/autoassign_r50-caffe_fpn_1x_coco.py"))
assigner = dict(type="AutoAssign")
