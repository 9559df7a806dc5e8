# The same with DCN in the backbone and in the last layer of both towers (MuSu, table 6).
_base_ = ["./musu_r101_2x_ms.py"]
networks = dict(
    r101=dict(
        model=dict(
            backbone=dict(
                dcn=dict(type="DCNv2", deform_groups=1, fallback_on_stride=False),
                stage_with_dcn=(False, True, True, True),
            ),
            bbox_head=dict(dcn_on_last_conv=True),
        )
    )
)
