# MuSu under CoLAD with three priors per location, whose first boxes follow from the run's seed.
_base_ = ["./musu_colad.py"]
networks = dict(
    r18=dict(model=dict(bbox_head=dict(num_anchors=3))),
    r34=dict(model=dict(bbox_head=dict(num_anchors=3))),
)
