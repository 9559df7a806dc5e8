# DW, ResNet-50, 1x. Backbone weights: --set networks.r50.pretrained=RESNET50.pth
# With box refinement: --set networks.r50.model.bbox_head.box_refine=True
_base_ = ["./_base_/coco.py", "./_base_/schedule_1x.py"]
networks = dict(
    r50=dict(
        config="mmdet::atss/atss_r50_fpn_1x_coco.py",  # backbone, neck and test settings
        model=dict(
            bbox_head=dict(
                _delete_=True,
                type="CoDWHead",
                in_channels=256,
                stacked_convs=4,
                feat_channels=256,
                strides=[8, 16, 32, 64, 128],
            ),
            train_cfg=None,
        ),
    )
)
assigner = dict(type="DW")
train = dict(
    param_scheduler=[
        dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000),
        dict(type="MultiStepLR", by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
    ]
)
