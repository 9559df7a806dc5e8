# LAD: a frozen teacher's costs decide what the student learns. The teacher is any trained detector
# with the same classes: --set networks.teacher.checkpoint=TEACHER.pth (made by `colad export`).
_base_ = ["./_base_/shapes.py"]
networks = dict(
    teacher=dict(preset="tiny_r34", learner=False, checkpoint="work/teacher.pth"),
    student=dict(preset="tiny_r18"),
)
assigner = dict(type="PAA")
switch = dict(criterion="fixed", teacher="teacher")
