# CoLAD with COP, ResNet-101 and a ResNet-50 trained before (paa_r50_3x_ms), 2x with multi-scale
# training (LAD paper, table 7). networks.r50.checkpoint=PAA_R50_3X.pth networks.r101.pretrained=...
_base_ = ["./_base_/coco_ms.py", "./_base_/schedule_2x.py"]
networks = dict(
    r101=dict(
        config="mmdet::paa/paa_r101_fpn_1x_coco.py", model=dict(bbox_head=dict(aux_cop=True))
    ),
    r50=dict(
        config="mmdet::paa/paa_r50_fpn_1x_coco.py",
        checkpoint="work/paa_r50_fpn_mstrain_3x_coco.pth",
    ),
)
assigner = dict(type="PAA")
switch = dict(criterion="std_mean", scope="gt_level")
