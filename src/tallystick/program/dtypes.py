"""torch's dtypes, by the names that programs use."""

from typing import Final

import torch

from tallystick.program.graph import DType

DTYPES: Final[dict[DType, torch.dtype]] = {
    "float32": torch.float32,
    "int64": torch.int64,
    "int32": torch.int32,
    "uint8": torch.uint8,
    "bool": torch.bool,
}
DTYPE_NAMES: Final[dict[torch.dtype, DType]] = {dtype: name for name, dtype in DTYPES.items()}
