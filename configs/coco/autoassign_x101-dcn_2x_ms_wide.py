# The same with a wider range of training scales (AutoAssign, table 6).
_base_ = ["./autoassign_x101-dcn_2x_ms.py"]
data = dict(train_scales=((1333, 480), (1333, 960)))
