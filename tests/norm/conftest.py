from __future__ import annotations

import torch._dynamo.config

# All dtypes, memory formats and sizes of 1 meet in one process here. Beyond the limit, which is 8,
# compiled functions run uncompiled without a word.
torch._dynamo.config.recompile_limit = 64
torch._dynamo.config.fail_on_recompile_limit_hit = True
