# What all DW configurations of table 7 share: 2x, multi-scale training.
_base_ = ["./coco_ms_480_800.py", "./schedule_2x.py", "./backbones.py", "./heads.py"]
assigner = dict(type="DW")
train = dict(
    param_scheduler=[
        dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000),
        dict(type="MultiStepLR", by_epoch=True, begin=0, end=24, milestones=[16, 22], gamma=0.1),
    ]
)
