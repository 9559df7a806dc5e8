# Plain ALA: one network whose scores split the points of each GT for itself.
_base_ = ["./_base_/shapes.py"]
networks = dict(r18=dict(preset="tiny_ala_r18"))
assigner = dict(type="ALA")
