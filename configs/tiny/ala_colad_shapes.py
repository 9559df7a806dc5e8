# ALA under CoLAD: two learners from random weights; per GT, the one with the better costs teaches.
_base_ = ["./_base_/shapes.py"]
networks = dict(r18=dict(preset="tiny_ala_r18"), r34=dict(preset="tiny_ala_r34"))
# The paper's own scores leave a small network without negatives: docs/methods/ala.md
assigner = dict(type="ALA", negative_map="none", normalizer="gts", loc_likelihood="loss")
switch = dict(criterion="std_mean")
