# ALA, ResNeXt-101-64x4d with DCN, 2x with multi-scale training (ALA, tables XIII to XV). The paper
# cites the first version of DCN. networks.x101.pretrained=...
_base_ = ["./ala_x101_2x_ms.py"]
networks = dict(
    x101=dict(
        model=dict(
            backbone=dict(
                dcn=dict(type="DCN", deform_groups=1, fallback_on_stride=False),
                stage_with_dcn=(False, False, True, True),
            )
        )
    )
)
