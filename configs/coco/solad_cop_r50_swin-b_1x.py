# The same with conditional objectness (COP) in the student.
_base_ = ["./solad_r50_swin-b_1x.py"]
networks = dict(r50=dict(model=dict(bbox_head=dict(aux_cop=True))))
