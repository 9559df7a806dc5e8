# PAA with conditional objectness (COP), ResNet-18, 1x (LAD paper, table 10).
_base_ = ["./paa_r18_1x.py"]
networks = dict(r18=dict(model=dict(bbox_head=dict(aux_cop=True))))
