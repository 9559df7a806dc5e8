# LAD, ResNet-18 learns from a frozen PAA ResNet-50 (LAD paper, table 6).
# networks.r50.checkpoint=PAA_R50.pth networks.r18.pretrained=...
_base_ = ["./_base_/coco.py", "./_base_/schedule_1x.py", "./_base_/backbones.py"]
networks = dict(
    r50=dict(
        config="mmdet::paa/paa_r50_fpn_1x_coco.py",
        learner=False,
        checkpoint="work/paa_r50_fpn_1x_coco.pth",
    ),
    r18=dict(config="mmdet::paa/paa_r50_fpn_1x_coco.py", model=_base_._r18),
)
assigner = dict(type="PAA")
switch = dict(criterion="fixed", teacher="r50")
train = dict(precision="fp16")
