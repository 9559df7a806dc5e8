# RTMDet has strides 8, 16 and 32 only, so it teaches a student of three levels (docs/teachers.md):
# --set networks.teacher.config=CONFIG.py networks.teacher.checkpoint=WEIGHTS.pth
_base_ = ["./_base_/own_data.py"]
networks = dict(
    teacher=dict(
        config="work/rtmdet.py",
        model=dict(data_preprocessor=dict(pad_size_divisor=32)),  # mmdet's configs pad elsewhere
        checkpoint="work/rtmdet.pth",
        learner=False,
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
