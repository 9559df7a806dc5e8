# Plain MuSu: one network whose boxes rank its classes, and whose classes rank its boxes.
_base_ = ["./_base_/own_data.py"]
networks = dict(r18=dict(preset="tiny_musu_r18"))
assigner = dict(type="MuSu")
