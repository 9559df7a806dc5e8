# CoLAD with COP, ResNeXt-101-64x4d and a ResNet-50 trained before (paa_r50_3x_ms), 2x with
# multi-scale training (LAD paper, table 7). networks.r50.checkpoint=PAA_R50_3X.pth
# networks.x101.pretrained=...
_base_ = ["./_base_/coco_ms.py", "./_base_/schedule_2x.py", "./_base_/backbones.py"]
networks = dict(
    x101=dict(
        config="mmdet::paa/paa_r50_fpn_1x_coco.py",
        model=dict(**_base_._x101, bbox_head=dict(aux_cop=True)),
    ),
    r50=dict(
        config="mmdet::paa/paa_r50_fpn_1x_coco.py",
        checkpoint="work/paa_r50_fpn_mstrain_3x_coco.pth",
    ),
)
assigner = dict(type="PAA")
switch = dict(criterion="std_mean", scope="gt_level")
