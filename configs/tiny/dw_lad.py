# DW under LAD: a frozen teacher decides the weights of the student's loss. The teacher is any
# trained detector on the same points, a learner of a finished run for example:
# --set networks.teacher.checkpoint=RUN/checkpoints/trial/CHECKPOINT/r34-rank0.pt
_base_ = ["./_base_/own_data.py"]
networks = dict(
    teacher=dict(preset="tiny_dw_r34", learner=False, checkpoint="work/teacher.pth"),
    student=dict(preset="tiny_dw_r18"),
)
assigner = dict(type="DW")
switch = dict(criterion="fixed", teacher="teacher")
