# PAA with conditional objectness (COP), EfficientNet-B0, 1x (LAD paper, table 10).
# Backbone weights: networks.effnet.pretrained=...
_base_ = ["./_base_/coco.py", "./_base_/schedule_1x.py", "./_base_/backbones.py"]
networks = dict(
    effnet=dict(
        config="mmdet::paa/paa_r50_fpn_1x_coco.py",
        model=dict(**_base_._effnet_b0, bbox_head=dict(aux_cop=True)),
    )
)
assigner = dict(type="PAA")
