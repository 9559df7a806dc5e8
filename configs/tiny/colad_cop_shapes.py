# CoLAD-COP: two learners, the larger one with conditional objectness (COP).
_base_ = ["./colad_shapes.py"]
networks = dict(r34=dict(model=dict(bbox_head=dict(aux_cop=True))))
