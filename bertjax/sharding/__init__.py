"""Placement on devices: the mesh, parameter table and batch rule. Models do not depend on it."""

from bertjax.sharding.batches import batch_sharding as batch_sharding
from bertjax.sharding.batches import local_rows as local_rows
from bertjax.sharding.batches import put as put
from bertjax.sharding.batches import to_global as to_global
from bertjax.sharding.mesh import AXES as AXES
from bertjax.sharding.mesh import BATCH_AXES as BATCH_AXES
from bertjax.sharding.mesh import check as check
from bertjax.sharding.mesh import check_model as check_model
from bertjax.sharding.mesh import make_mesh as make_mesh
from bertjax.sharding.mesh import num_slices as num_slices
from bertjax.sharding.reduction import fsdp_gather as fsdp_gather
from bertjax.sharding.reduction import mapped_axes as mapped_axes
from bertjax.sharding.reduction import summed as summed
from bertjax.sharding.table import Placement as Placement
from bertjax.sharding.table import abstract as abstract
from bertjax.sharding.table import leaf_name as leaf_name
from bertjax.sharding.table import spec as spec
