# LAD whose student has conditional objectness (COP); its teacher need not have it.
# The teacher: --set networks.teacher.checkpoint=TEACHER.pth (made by `colad export`).
_base_ = ["./lad_shapes.py"]
networks = dict(student=dict(model=dict(bbox_head=dict(aux_cop=True))))
