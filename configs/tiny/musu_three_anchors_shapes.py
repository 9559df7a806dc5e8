# MuSu under CoLAD with three priors per location, whose first boxes follow from the run's seed.
_base_ = ["./musu_colad_shapes.py"]
three = dict(bbox_head=dict(num_anchors=3))
networks = dict(r18=dict(model=three), r34=dict(model=three))
