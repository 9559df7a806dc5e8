# Plain PAA: one network that assigns for itself.
_base_ = ["./_base_/own_data.py"]
networks = dict(r18=dict(preset="tiny_r18"))
assigner = dict(type="PAA")
