# Any COCO-format dataset: --set data.root=DIR data.train=train.json data.val=val.json
_base_ = ["./schedule.py"]
data = dict(root="", scale=(224, 160))
train = dict(max_iterations=600)
evaluation = dict(interval=300)
