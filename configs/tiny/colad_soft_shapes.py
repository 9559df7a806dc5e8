# CoLAD with soft labels: in each image, the network with the better costs is imitated as well.
_base_ = ["./colad_shapes.py"]
soft_labels = dict(loss="kl", gamma=0.5)
