# LAD whose teacher is of another family: any dense mmdet detector with the same classes, strides
# 8 to 128 and one prior per location (docs/teachers.md):
# --set networks.teacher.config=CONFIG.py networks.teacher.checkpoint=WEIGHTS.pth
_base_ = ["./_base_/own_data.py"]
networks = dict(
    teacher=dict(config="work/atss.py", checkpoint="work/atss.pth", learner=False),
    student=dict(preset="tiny_r18"),
)
assigner = dict(type="PAA")
switch = dict(criterion="fixed", teacher="teacher")
