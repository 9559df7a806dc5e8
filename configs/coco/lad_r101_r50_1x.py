# LAD, ResNet-101 learns from a smaller teacher, a frozen PAA ResNet-50 (LAD paper, table 3).
# networks.r50.checkpoint=PAA_R50.pth networks.r101.pretrained=...
_base_ = ["./_base_/coco.py", "./_base_/schedule_1x.py"]
networks = dict(
    r50=dict(
        config="mmdet::paa/paa_r50_fpn_1x_coco.py",
        learner=False,
        checkpoint="work/paa_r50_fpn_1x_coco.pth",
    ),
    r101=dict(config="mmdet::paa/paa_r101_fpn_1x_coco.py"),
)
assigner = dict(type="PAA")
switch = dict(criterion="fixed", teacher="r50")
train = dict(precision="fp16")
