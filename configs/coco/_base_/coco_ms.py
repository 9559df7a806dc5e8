# Multi-scale training: the shorter side is drawn between 640 and 800 pixels.
_base_ = ["./coco.py"]
data = dict(train_scales=((1333, 640), (1333, 800)))
