# LAD with dynamic switch: the frozen teacher teaches unless the student's own costs look better.
_base_ = ["./lad.py"]
switch = dict(_delete_=True, criterion="std_mean")
