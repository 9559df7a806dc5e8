# SoLAD: as LAD, and the student imitates the teacher's outputs, too.
# The teacher: --set networks.teacher.checkpoint=TEACHER.pth (made by `colad export`).
_base_ = ["./lad.py"]
soft_labels = dict(loss="kl", gamma=0.5)
