# 3x as mmdet trains PAA: 36 epochs.
_base_ = ["./schedule_1x.py"]
train = dict(
    max_epochs=36,
    param_scheduler=[
        dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
        dict(type="MultiStepLR", by_epoch=True, begin=0, end=36, milestones=[28, 34], gamma=0.1),
    ],
)
