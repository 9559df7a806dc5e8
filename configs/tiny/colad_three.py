# Three learners; the best indicator among them teaches.
_base_ = ["./colad.py"]
networks = dict(wide=dict(preset="tiny_r18_wide"))
