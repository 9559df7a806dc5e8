"""Heads, teachers and presets, registered with mmdet on import.

Under plain mmdet: ``custom_imports = dict(imports=["models"])``.
"""

from models import mmcv_ops

mmcv_ops.install()  # before the first import of mmdet, which needs mmcv's operators

from models.ala_head import CoALAHead  # noqa: E402
from models.autoassign_head import CoAutoAssignHead  # noqa: E402
from models.dw_head import CoDWHead  # noqa: E402
from models.dw_tood_head import CoDWTOODHead  # noqa: E402
from models.musu_head import CoMuSuHead  # noqa: E402
from models.paa_head import CoPAAHead  # noqa: E402

__all__ = ["CoALAHead", "CoAutoAssignHead", "CoDWHead", "CoDWTOODHead", "CoMuSuHead", "CoPAAHead"]
