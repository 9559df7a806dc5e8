# Plain DW on TOOD's task-aligned head.
_base_ = ["./_base_/shapes.py"]
networks = dict(r18=dict(preset="tiny_dw_tood_r18"))
assigner = dict(type="DW")
