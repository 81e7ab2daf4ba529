import jax
import jax.numpy as jnp
import pytest
from flax import nnx

from bytelm.core.errors import UserError
from bytelm.nn.linear import Dense
from bytelm.nn.roles import parameter_roles


class Block(nnx.Module):
    def __init__(self, rngs):
        self.dense = Dense(2, 3, rngs=rngs, bias=True)
        self.head = Dense(2, 3, rngs=rngs, bias=True, role="head")


def test_roles_survive_stacking():
    stacked = nnx.vmap(Block)(nnx.Rngs(0).split(4))
    assert stacked.dense.kernel[...].shape == (4, 2, 3)
    assert parameter_roles(nnx.state(stacked, nnx.Param)) == {
        "dense": {"kernel": "matrix", "bias": "bias"},
        "head": {"kernel": "head", "bias": "head_bias"},
    }


@pytest.mark.parametrize("metadata", [{}, {"role": "matrx"}])
def test_a_parameter_without_a_role_is_refused(metadata):
    block = Block(nnx.Rngs(0))
    block.mark = nnx.Param(jnp.zeros(3), **metadata)
    with pytest.raises(UserError, match=r"the parameter mark has the role .* one of matrix, conv"):
        parameter_roles(nnx.state(block, nnx.Param))


def test_shapes_are_enough():
    block = nnx.eval_shape(lambda: Block(nnx.Rngs(0)))
    roles = parameter_roles(nnx.state(block, nnx.Param))
    assert jax.tree.leaves(roles) == ["bias", "matrix", "head_bias", "head"]
