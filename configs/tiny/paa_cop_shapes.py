# PAA with conditional objectness (COP) beside the IoU branch.
_base_ = ["./paa_shapes.py"]
networks = dict(r18=dict(model=dict(bbox_head=dict(aux_cop=True))))
