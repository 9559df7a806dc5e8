r"""``colad train`` on the cluster that this script is submitted to, with the same arguments.

    ray submit cluster.yaml jobs/train.py configs/tiny/colad_shapes.py --work-dir /shared/runs/first
    ray job submit --working-dir . -- python jobs/train.py \
        configs/tiny/colad_shapes.py --work-dir /shared/runs/first
"""

import sys

try:
    from orchestrator.job import run_on_cluster
except ModuleNotFoundError as error:
    sys.exit(
        f"{error}: colad is not installed in {sys.executable} of this node; "
        "see setup_commands in cluster.yaml"
    )

if __name__ == "__main__":
    run_on_cluster("train")
