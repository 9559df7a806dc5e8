# PAA with implicit objectness (IOP) beside the IoU branch.
_base_ = ["./paa.py"]
networks = dict(r18=dict(model=dict(bbox_head=dict(aux_iop=True))))
