# RTMDet has strides 8, 16 and 32 only, so it teaches a student of three levels (docs/teachers.md).
_base_ = ["./_base_/shapes.py"]
networks = dict(
    teacher=dict(
        config="configs/tiny/mmdet/rtmdet_shapes.py", checkpoint="work/rtmdet.pth", learner=False
    ),
    student=dict(
        preset="tiny_r18",
        model=dict(
            neck=dict(num_outs=3), bbox_head=dict(anchor_generator=dict(strides=[8, 16, 32]))
        ),
    ),
)
assigner = dict(type="PAA")
switch = dict(criterion="fixed", teacher="teacher")
