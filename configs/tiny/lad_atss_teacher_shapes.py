# LAD whose teacher is of another family: mmdet's ATSS teaches a PAA student (docs/teachers.md).
_base_ = ["./_base_/shapes.py"]
networks = dict(
    teacher=dict(
        config="configs/tiny/mmdet/atss_shapes.py", checkpoint="work/atss.pth", learner=False
    ),
    student=dict(preset="tiny_r18"),
)
assigner = dict(type="PAA")
switch = dict(criterion="fixed", teacher="teacher")
