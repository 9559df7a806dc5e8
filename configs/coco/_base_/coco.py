# COCO 2017 in its usual layout: data/coco/{annotations,train2017,val2017}.
data = dict(
    root="data/coco",
    train="annotations/instances_train2017.json",
    val="annotations/instances_val2017.json",
    train_images="train2017",
    val_images="val2017",
    scale=(1333, 800),
    flip=0.5,
    filter_empty_gt=True,
    min_size=32,
    group_by_aspect=True,
)
feed = dict(workers=4)
evaluation = dict(interval_epochs=1)
resources = dict(cpus_per_network=1.0)
