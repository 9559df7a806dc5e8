# MuSu under LAD: a frozen teacher decides bags and ranks, hence the weights of the student's loss.
# The teacher is any trained detector on the same points:
# --set networks.teacher.checkpoint=TEACHER.pth
_base_ = ["./_base_/shapes.py"]
networks = dict(
    teacher=dict(preset="tiny_musu_r34", learner=False, checkpoint="work/teacher.pth"),
    student=dict(preset="tiny_musu_r18"),
)
assigner = dict(type="MuSu")
switch = dict(criterion="fixed", teacher="teacher")
