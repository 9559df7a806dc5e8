r"""``colad tune`` on the cluster that this script is submitted to, with the same arguments.

    ray submit cluster.yaml jobs/tune.py dw-table2 --work-dir /shared/runs/dw-table2
    ray job submit --working-dir . -- python jobs/tune.py \
        dw-table2 --work-dir /shared/runs/dw-table2
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
    run_on_cluster("tune")
