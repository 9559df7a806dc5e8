# ALA: 12 epochs of 4 images, the rest as mmdet trains FCOS.
train = dict(
    max_epochs=12,
    batch_size=4,
    optimizer=dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=1e-4),
    paramwise_cfg=dict(bias_lr_mult=2.0, bias_decay_mult=0.0),
    clip_grad=35.0,
    param_scheduler=[
        dict(type="ConstantLR", factor=1 / 3, by_epoch=False, begin=0, end=500),
        dict(type="MultiStepLR", by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
    ],
)
