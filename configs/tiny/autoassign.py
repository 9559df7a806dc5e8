# Plain AutoAssign: one network that weights for itself and learns its centre prior.
_base_ = ["./_base_/own_data.py"]
networks = dict(r18=dict(preset="tiny_autoassign_r18"))
assigner = dict(type="AutoAssign")
