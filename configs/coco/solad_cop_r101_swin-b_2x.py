# SoLAD with COP, ResNet-101 learns from a frozen PAA Swin-B, 2x (LAD paper, table 9).
# networks.swin.checkpoint=PAA_SWIN_B.pth (of lad_swin-b_x101-dcn_3x_ms)
# networks.r101.pretrained=...
_base_ = ["./_base_/coco.py", "./_base_/schedule_2x.py", "./_base_/backbones.py"]
networks = dict(
    swin=dict(
        config="mmdet::paa/paa_r50_fpn_1x_coco.py",
        model=_base_._swin_b,
        learner=False,
        checkpoint="work/paa_swin_b.pth",
    ),
    r101=dict(
        config="mmdet::paa/paa_r101_fpn_1x_coco.py", model=dict(bbox_head=dict(aux_cop=True))
    ),
)
assigner = dict(type="PAA")
switch = dict(criterion="fixed", teacher="swin")
soft_labels = dict(loss="kl", gamma=0.5)
