# ALA under LAD: a frozen teacher's scores make the three sets and the soft labels, the student
# learns by its own. The teacher is any trained detector on the same points, a learner of a finished
# run for example: --set networks.teacher.checkpoint=RUN/checkpoints/trial/CHECKPOINT/r34-rank0.pt
_base_ = ["./_base_/own_data.py"]
networks = dict(
    teacher=dict(preset="tiny_ala_r34", learner=False, checkpoint="work/teacher.pth"),
    student=dict(preset="tiny_ala_r18"),
)
# The paper's own scores leave a small network without negatives: docs/methods/ala.md
assigner = dict(type="ALA", negative_map="none", normalizer="gts", loc_likelihood="loss")
switch = dict(criterion="fixed", teacher="teacher")
