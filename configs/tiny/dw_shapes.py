# Plain DW: one network that weights for itself.
_base_ = ["./_base_/shapes.py"]
networks = dict(r18=dict(preset="tiny_dw_r18"))
assigner = dict(type="DW")
