# DW with box refinement, ResNet-101 with DCN, 2x with multi-scale training (DW, table 7).
_base_ = ["./dw_r101-dcn_2x_ms.py"]
networks = dict(r101=dict(model=dict(bbox_head=dict(box_refine=True))))
