# The same for 24 epochs.
_base_ = ["./schedule_fcos_1x.py"]
train = dict(
    max_epochs=24,
    param_scheduler=[
        dict(type="ConstantLR", factor=1 / 3, by_epoch=False, begin=0, end=500),
        dict(type="MultiStepLR", by_epoch=True, begin=0, end=24, milestones=[16, 22], gamma=0.1),
    ],
)
