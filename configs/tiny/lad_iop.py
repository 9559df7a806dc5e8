# LAD whose student has implicit objectness (IOP); its teacher need not have it.
# The teacher: --set networks.teacher.checkpoint=TEACHER.pth (made by `colad export`).
_base_ = ["./lad.py"]
networks = dict(student=dict(model=dict(bbox_head=dict(aux_iop=True))))
