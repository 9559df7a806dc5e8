# SoLAD: LAD, and the student imitates the teacher's outputs, too (LAD paper, table 2).
_base_ = ["./lad_r50_r101_1x.py"]
soft_labels = dict(loss="kl", gamma=0.5)
