# What all ALA configurations of table XIII share: 2x, multi-scale training.
_base_ = ["./coco_ms.py", "./schedule_fcos_2x.py", "./backbones.py", "./heads.py"]
assigner = dict(type="ALA")
