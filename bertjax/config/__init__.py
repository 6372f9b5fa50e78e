"""The config of a run: all fields with defaults and checks, and how a config is written and read.

A config file imports this package as `config_lib` and needs nothing else.
"""

from bertjax.config.arg import parse_arg as parse_arg
from bertjax.config.build import component as component
from bertjax.config.build import default as default
from bertjax.config.build import from_config_dict as from_config_dict
from bertjax.config.build import leaves as leaves
from bertjax.config.build import model_of as model_of
from bertjax.config.build import phase as phase
from bertjax.config.build import to_dict as to_dict
from bertjax.config.data_fields import Component as Component
from bertjax.config.data_fields import Data as Data
from bertjax.config.data_fields import Examples as Examples
from bertjax.config.data_fields import Masking as Masking
from bertjax.config.data_fields import Tokenizer as Tokenizer
from bertjax.config.embedding_fields import Embedding as Embedding
from bertjax.config.fields import Checkpoints as Checkpoints
from bertjax.config.fields import Config as Config
from bertjax.config.fields import Evaluation as Evaluation
from bertjax.config.fields import Objective as Objective
from bertjax.config.fields import Optimizer as Optimizer
from bertjax.config.fields import Phase as Phase
from bertjax.config.finetune_fields import Finetune as Finetune
from bertjax.config.finetune_fields import Grid as Grid
from bertjax.config.finetune_fields import Task as Task
from bertjax.config.logging_fields import Logging as Logging
from bertjax.config.mesh_fields import Mesh as Mesh
from bertjax.config.model_fields import Model as Model
from bertjax.config.teacher_fields import Teacher as Teacher
