# Drawn shapes, made on first use (orchestrator/data/shapes.py).
_base_ = ["./schedule.py"]
data = dict(root="data/shapes", shapes=dict(), images="images", scale=(128, 128))
train = dict(max_iterations=400)
evaluation = dict(interval=200)
