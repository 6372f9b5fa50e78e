"""Fine-tuning: the tasks of the papers and a user's own, from labelled files to scores."""

import sys

import bertjax

sys.modules[__name__].__class__ = bertjax.FunctionPackage  # `bertjax.finetune(...)`
