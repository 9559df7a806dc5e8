# LAD with dynamic switch, Swin-B learns from the frozen ResNeXt-101-DCN of colad_cop_x101-dcn_2x_ms
# unless its own costs look better; AdamW, 3x (LAD paper, table 8).
# networks.x101.checkpoint=COLAD_X101_DCN.pth networks.swin.pretrained=...
_base_ = [
    "./_base_/coco_ms_480_800.py",
    "./_base_/schedule_3x_adamw.py",
    "./_base_/backbones.py",
]
networks = dict(
    x101=dict(
        config="mmdet::paa/paa_r50_fpn_1x_coco.py",
        model=dict(**_base_._x101_dcn, bbox_head=dict(type="CoPAAHead", aux_cop=True)),
        learner=False,
        checkpoint="work/colad_cop_x101-dcn.pth",
    ),
    swin=dict(config="mmdet::paa/paa_r50_fpn_1x_coco.py", model=_base_._swin_b),
)
assigner = dict(type="PAA")
switch = dict(criterion="std_mean", scope="gt_level")
