# 1x counted in iterations (AutoAssign, MuSu): 90,000 of 16 images.
train = dict(
    max_iterations=90_000,
    batch_size=16,
    optimizer=dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=1e-4),
    param_scheduler=[
        dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
        dict(type="MultiStepLR", by_epoch=False, milestones=[60_000, 80_000], gamma=0.1),
    ],
)
