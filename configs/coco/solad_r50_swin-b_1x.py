# SoLAD, ResNet-50 learns from a frozen PAA Swin-B (LAD paper, table 9).
# networks.swin.checkpoint=PAA_SWIN_B.pth (of lad_swin-b_x101-dcn_3x_ms) networks.r50.pretrained=...
_base_ = ["./_base_/coco.py", "./_base_/schedule_1x.py", "./_base_/backbones.py"]
networks = dict(
    swin=dict(
        config="mmdet::paa/paa_r50_fpn_1x_coco.py",
        model=_base_._swin_b,
        learner=False,
        checkpoint="work/paa_swin_b.pth",
    ),
    r50=dict(config="mmdet::paa/paa_r50_fpn_1x_coco.py"),
)
assigner = dict(type="PAA")
switch = dict(criterion="fixed", teacher="swin")
soft_labels = dict(loss="kl", gamma=0.5)
