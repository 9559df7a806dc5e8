# RTMDet's head on three levels under plain mmdet, to become the frozen teacher of
# ../lad_rtmdet_teacher_shapes.py.
_base_ = ["./shapes.py"]
model = dict(
    type="RTMDet",
    neck=dict(num_outs=3),
    bbox_head=dict(
        type="RTMDetSepBNHead",
        num_classes=4,
        in_channels=32,
        feat_channels=32,
        stacked_convs=2,
        anchor_generator=dict(type="MlvlPointGenerator", offset=0, strides=[8, 16, 32]),
        bbox_coder=dict(type="DistancePointBBoxCoder"),
        loss_cls=dict(type="QualityFocalLoss", use_sigmoid=True, beta=2.0, loss_weight=1.0),
        loss_bbox=dict(type="GIoULoss", loss_weight=2.0),
        with_objectness=False,
        exp_on_reg=True,
        share_conv=True,
        pred_kernel_size=1,
        norm_cfg=dict(type="BN"),
        act_cfg=dict(type="SiLU"),
    ),
    train_cfg=dict(
        assigner=dict(type="DynamicSoftLabelAssigner", topk=13),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
)
