# PAA with conditional objectness (COP), ResNet-50, 1x (LAD paper, table 10).
_base_ = ["./paa_r50_1x.py"]
networks = dict(r50=dict(model=dict(bbox_head=dict(aux_cop=True))))
