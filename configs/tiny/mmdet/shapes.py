# Plain mmdet, nothing of ours but the operators: train a detector on the drawn shapes, on a CPU.
# `colad data shapes data/shapes` draws them; docs/teachers.md has the command.
default_scope = "mmdet"
custom_imports = dict(imports=["models"])  # mmcv's operators where they are not compiled
max_iters = 400
classes = ("circle", "square", "triangle", "star")

model = dict(
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone=dict(
        type="ResNet",
        depth=18,
        base_channels=16,
        num_stages=4,
        out_indices=(0, 1, 2, 3),
        frozen_stages=-1,
        norm_cfg=dict(type="BN", requires_grad=True),
        norm_eval=False,
        style="pytorch",
    ),
    neck=dict(
        type="FPN",
        in_channels=[16, 32, 64, 128],
        out_channels=32,
        start_level=1,
        add_extra_convs="on_output",
        num_outs=5,
    ),
    test_cfg=dict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(type="nms", iou_threshold=0.6),
        max_per_img=100,
    ),
)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(128, 128), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(128, 128), keep_ratio=True),
    dict(
        type="PackDetInputs",
        meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor"),
    ),
]
dataset = dict(
    type="CocoDataset",
    data_root="data/shapes/",
    ann_file="train.json",
    data_prefix=dict(img="images/"),
    metainfo=dict(classes=classes),
    pipeline=train_pipeline,
)
train_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dataset,
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CocoDataset",
        data_root="data/shapes/",
        ann_file="val.json",
        data_prefix=dict(img="images/"),
        metainfo=dict(classes=classes),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type="CocoMetric", ann_file="data/shapes/val.json", metric="bbox")
test_dataloader = val_dataloader
test_evaluator = val_evaluator

train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="AdamW", lr=2e-3, weight_decay=0.05),
    clip_grad=dict(max_norm=35.0),
)
param_scheduler = [
    dict(type="OneCycleLR", eta_max=2e-3, pct_start=0.2, total_steps=max_iters, by_epoch=False)
]
default_hooks = dict(
    checkpoint=dict(type="CheckpointHook", by_epoch=False, interval=max_iters),
    logger=dict(type="LoggerHook", interval=50),
)
