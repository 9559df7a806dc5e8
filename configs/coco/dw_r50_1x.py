# DW, ResNet-50, 1x. Backbone weights: --set networks.r50.pretrained=RESNET50.pth
# With box refinement: dw_refine_r50_1x.py
_base_ = ["./_base_/coco.py", "./_base_/schedule_1x.py", "./_base_/heads.py"]
networks = dict(  # backbone, neck and test settings are mmdet's
    r50=dict(config="mmdet::atss/atss_r50_fpn_1x_coco.py", model=_base_._dw)
)
assigner = dict(type="DW")
train = dict(
    param_scheduler=[
        dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000),
        dict(type="MultiStepLR", by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
    ]
)
