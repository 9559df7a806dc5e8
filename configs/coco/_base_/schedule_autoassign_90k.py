# AutoAssign's 1x: a longer warm-up, no weight decay of normalisation layers.
_base_ = ["./schedule_90k.py"]
train = dict(
    paramwise_cfg=dict(norm_decay_mult=0.0),
    param_scheduler=[
        dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=1000),
        dict(type="MultiStepLR", by_epoch=False, milestones=[60_000, 80_000], gamma=0.1),
    ],
)
