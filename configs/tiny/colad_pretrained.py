# CoLAD in which one network starts from trained weights: --set networks.r34.checkpoint=WEIGHTS.pth
_base_ = ["./colad.py"]
networks = dict(r34=dict(checkpoint="work/r34.pth"))
