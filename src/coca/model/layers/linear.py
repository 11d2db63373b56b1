"""The linear layer of all towers: `nn.Linear` with an optional bias of each call.

Attention without key biases joins the biases of queries and values in each call. For CPU inference,
`coca.model.layers.prepacked` gives a layer a second copy of its weight.

Dimensions: B batch, D input and N output width.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F


class Linear(nn.Linear):
    """A linear layer, W x + b."""

    def forward(
        self, inputs: Float[Tensor, "*B D"], bias: Float[Tensor, " N"] | None = None
    ) -> Float[Tensor, "*B N"]:
        """Compute W x + b; `bias` replaces the layer's own bias."""
        return F.linear(inputs, self.weight, self.bias if bias is None else bias)
