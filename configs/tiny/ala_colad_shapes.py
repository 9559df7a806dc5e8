# ALA under CoLAD: two learners from random weights; per GT, the one with the better costs teaches.
_base_ = ["./_base_/shapes.py"]
networks = dict(r18=dict(preset="tiny_ala_r18"), r34=dict(preset="tiny_ala_r34"))
assigner = dict(type="ALA")
switch = dict(criterion="std_mean")
