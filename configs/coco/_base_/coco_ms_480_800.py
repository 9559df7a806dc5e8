# Multi-scale training of GFL, TOOD and Swin: the shorter side is drawn between 480 and 800 pixels.
_base_ = ["./coco.py"]
data = dict(train_scales=((1333, 480), (1333, 800)))
