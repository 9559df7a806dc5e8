# CoLAD in which one network starts from trained weights: --set networks.r18.checkpoint=WEIGHTS.pth
_base_ = ["./colad_shapes.py"]
networks = dict(r18=dict(checkpoint="work/r18.pth"))
