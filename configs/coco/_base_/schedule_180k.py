# 2x counted in iterations: 180,000 of 16 images.
_base_ = ["./schedule_90k.py"]
train = dict(
    max_iterations=180_000,
    param_scheduler=[
        dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
        dict(type="MultiStepLR", by_epoch=False, milestones=[120_000, 160_000], gamma=0.1),
    ],
)
