# MuSu under CoLAD: two learners from random weights; per GT, the one with the better costs teaches.
_base_ = ["./_base_/shapes.py"]
networks = dict(r18=dict(preset="tiny_musu_r18"), r34=dict(preset="tiny_musu_r34"))
assigner = dict(type="MuSu")
switch = dict(criterion="std_mean")
