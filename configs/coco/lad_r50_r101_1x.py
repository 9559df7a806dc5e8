# LAD, ResNet-50 learns from a frozen PAA ResNet-101 (LAD paper, table 2). The teacher's weights:
# --set networks.r101.checkpoint=PAA_R101.pth, the student's backbone: networks.r50.pretrained=...
_base_ = ["./_base_/coco.py", "./_base_/schedule_1x.py"]
networks = dict(
    r101=dict(
        config="mmdet::paa/paa_r101_fpn_1x_coco.py",
        learner=False,
        checkpoint="work/paa_r101_fpn_1x_coco.pth",
    ),
    r50=dict(config="mmdet::paa/paa_r50_fpn_1x_coco.py"),
)
assigner = dict(type="PAA")
switch = dict(criterion="fixed", teacher="r101")
train = dict(precision="fp16")
