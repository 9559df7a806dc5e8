# MuSu with three priors per location, ResNet-50, 1x (MuSu, table 5).
_base_ = ["./musu_r50_1x.py"]
networks = dict(r50=dict(model=dict(bbox_head=dict(num_anchors=3))))
