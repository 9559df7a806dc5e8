# Fields of a `model` that put one of our heads into an mmdet configuration.
_towers = dict(
    _delete_=True,
    in_channels=256,
    stacked_convs=4,
    feat_channels=256,
    strides=[8, 16, 32, 64, 128],
)
_nms = dict(nms=dict(type="nms", iou_threshold=0.6))  # mmdet's FCOS has 0.5
_dw = dict(bbox_head=dict(**_towers, type="CoDWHead"), train_cfg=None, test_cfg=_nms)
_dw_tood = dict(  # mmdet's TOOD has six convolutions in its tower
    bbox_head=dict(**{**_towers, "stacked_convs": 6}, type="CoDWTOODHead"),
    train_cfg=None,
    test_cfg=_nms,
)
_ala = dict(bbox_head=dict(**_towers, type="CoALAHead"), test_cfg=_nms)
_musu = dict(bbox_head=dict(**_towers, type="CoMuSuHead"), test_cfg=_nms)
_musu_three = dict(bbox_head=dict(**_towers, type="CoMuSuHead", num_anchors=3), test_cfg=_nms)
