# DW with box refinement, ResNet-50, 1x (DW, table 6).
_base_ = ["./dw_r50_1x.py"]
networks = dict(r50=dict(model=dict(bbox_head=dict(box_refine=True))))
