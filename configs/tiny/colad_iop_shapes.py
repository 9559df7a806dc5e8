# Two learners, the larger one with implicit objectness (IOP).
_base_ = ["./colad_shapes.py"]
networks = dict(r34=dict(model=dict(bbox_head=dict(aux_iop=True))))
