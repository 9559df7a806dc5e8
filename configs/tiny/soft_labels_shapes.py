# Soft labels alone: the student imitates the teacher's outputs and sees no label of its own.
# The teacher: --set networks.teacher.checkpoint=TEACHER.pth (made by `colad export`).
_base_ = ["./lad_shapes.py"]
soft_labels = dict(loss="kl", gamma=0.5, cls_weight=10.0, hard_labels=False)
