# Plain ALA: one network whose scores split the points of each GT for itself.
_base_ = ["./_base_/shapes.py"]
networks = dict(r18=dict(preset="tiny_ala_r18"))
# The paper's own scores leave a small network without negatives: docs/methods/ala.md
assigner = dict(type="ALA", negative_map="none", normalizer="gts", loc_likelihood="loss")
