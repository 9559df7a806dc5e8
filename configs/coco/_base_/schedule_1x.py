# The papers' 1x schedule: 12 epochs of 16 images, SGD, warm-up over 500 iterations.
train = dict(
    max_epochs=12,
    batch_size=16,
    optimizer=dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=1e-4),
    param_scheduler=[
        dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
        dict(type="MultiStepLR", by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
    ],
)
