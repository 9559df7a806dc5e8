# ALA, ResNet-101 with DCN, 2x with multi-scale training (ALA, table XIII). The paper cites the
# first version of DCN. networks.r101.pretrained=... (Caffe-style weights)
_base_ = ["./ala_r101_2x_ms.py"]
networks = dict(
    r101=dict(
        model=dict(
            backbone=dict(
                dcn=dict(type="DCN", deform_groups=1, fallback_on_stride=False),
                stage_with_dcn=(False, True, True, True),
            )
        )
    )
)
