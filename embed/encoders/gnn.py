"""`molebert` and `gnn-gcn`: graph networks that give each atom a row, written from the papers.

The networks of Hu et al. 2020 (arXiv:1905.12265): `gnn-gcn` is their graph convolution (Kipf & Welling,
arXiv:1609.02907, equation 2), `molebert` their graph isomorphism network (Xu et al., arXiv:1810.00826, equation 4.1
with ε = 0), which Mole-BERT (Xia et al., ICLR 2023) trains in another way and leaves as it is.  Both have bond
embeddings in the messages.  For atom i, and j its neighbours and itself by a self-loop:

    e_ij = type embedding + direction embedding of the bond
    gcn:  y_i = Σ_j (d_i d_j)^-1/2 (W x_j + b + e_ij)       d: neighbours and the self-loop, counted
    gin:  y_i = W₂ ReLU(W₁ Σ_j (x_j + e_ij) + b₁) + b₂      W₁: D → 2 D, W₂: 2 D → D
    x_i' = norm(y_i)                                        batch norm with the running statistics

and ReLU after every layer but the last, whose output is the rows.
Shapes: A atoms, E directed edges, D width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from crossllm.cache.errors import InputError
from crossllm.cache.records.record import Record
from crossllm.embed.encoder import Loading, Outputs
from crossllm.embed.encoders.molecular_graph import (
    ATOM_TYPES,
    BOND_TYPE_ROWS,
    CHIRALITIES,
    DIRECTIONS,
    SELF_LOOP,
    Graph,
    graph_of,
    packed,
)
from crossllm.embed.encoders.windows import by_budget
from crossllm.embed.engine.device import device_of
from crossllm.embed.weights.checkpoint import read_verified, select_tensors

DIM, LAYERS = 300, 5
_EPS = 1e-5
_UNUSED = r"batch_norms\.\d+\.num_batches_tracked"
_NORM = ("running_mean", "running_var", "weight", "bias")
Shapes = dict[str, tuple[int, ...]]
Layer = Mapping[str, Tensor]
"""A layer's own tensors, by the end of their names."""


class Edges(NamedTuple):
    """The edges of a graph, every bond once in each direction, then one self-loop an atom."""

    source: Tensor
    """(E + A,) int64: the atom that a message comes from."""
    target: Tensor
    """(E + A,) int64: the atom that it goes to."""
    kind: Tensor
    """(E + A,) int64: type of the bond."""
    direction: Tensor
    """(E + A,) int64: direction of the bond."""


class Convolution(NamedTuple):
    """What the layers of a network do between two batch norms."""

    shapes: Callable[[int], Shapes]
    """Width → shapes of a layer's own tensors, by the end of their names."""
    apply: Callable[[Tensor, Tensor, Edges, Layer], Tensor]
    """(A, D) rows, (E + A, D) embeddings of the edges, the edges and the layer's tensors → (A, D)."""


def _gcn(x: Tensor, e: Tensor, edges: Edges, w: Layer) -> Tensor:
    source, target = edges.source, edges.target
    root = torch.bincount(source, minlength=len(x)).to(x.dtype).rsqrt()
    y = F.linear(x, w["linear.weight"], w["linear.bias"])
    messages = (root[source] * root[target]).unsqueeze(1) * (y[source] + e)
    return torch.zeros_like(y).index_add_(0, target, messages)


def _gin(x: Tensor, e: Tensor, edges: Edges, w: Layer) -> Tensor:
    total = torch.zeros_like(x).index_add_(0, edges.target, x[edges.source] + e)
    inner = F.relu(F.linear(total, w["mlp.0.weight"], w["mlp.0.bias"]))
    return F.linear(inner, w["mlp.2.weight"], w["mlp.2.bias"])


GCN = Convolution(lambda d: {"linear.weight": (d, d), "linear.bias": (d,)}, _gcn)
GIN = Convolution(
    lambda d: {"mlp.0.weight": (2 * d, d), "mlp.0.bias": (2 * d,), "mlp.2.weight": (d, 2 * d), "mlp.2.bias": (d,)},
    _gin,
)
CONVOLUTIONS = {"molebert": GIN, "gnn-gcn": GCN}
"""Encoder → its convolution."""


class GraphEncoder:
    """Implements `crossllm.embed.encoder.Encoder` for molecules."""

    modality = "molecule"
    dim = DIM
    limit: int | None = None

    def __init__(self, loading: Loading) -> None:
        self.name = loading.recipe.encoder
        self._convolution = CONVOLUTIONS[self.name]
        self._device = device_of(loading.device)
        assert loading.weights is not None  # find_encoder asked for it
        expected = expected_shapes(self._convolution, DIM, LAYERS)
        held = read_verified(loading)
        _refuse_other_network(loading, held)
        found = select_tensors(loading.weights, held, expected, _UNUSED)
        self._weights = {name: tensor.to(self._device, torch.float32) for name, tensor in found.items()}
        self._batch_tokens = loading.batch_tokens
        self.notes: Counter[str] = Counter()

    def encode(self, records: Iterable[Record]) -> Iterator[tuple[bytes, Outputs]]:
        """`(key, outputs)`, one output: rows (A, 300) float32."""
        for group in by_budget(records, self._batch_tokens):
            graphs = [graph_of(record.sequence) for record in group]
            self.notes.update(chain.from_iterable(graph.notes for graph in graphs))
            with torch.inference_mode():
                rows = atom_rows(packed(graphs), self._weights, self._convolution, LAYERS).cpu().numpy()
            ends = np.cumsum([len(graph.atoms) for graph in graphs])
            for record, part in zip(group, np.split(rows, ends[:-1]), strict=True):
                yield record.key, (part,)


def _refuse_other_network(loading: Loading, found: Mapping[str, Tensor]) -> None:
    """Raise `InputError` where the tensors are those of another network here, and say which."""
    own = loading.recipe.encoder
    for name, convolution in CONVOLUTIONS.items():
        if name != own and expected_shapes(convolution, DIM, LAYERS).keys() <= found.keys():
            layer = " and ".join(f"gnns.*.{tensor}" for tensor in convolution.shapes(DIM) if tensor.endswith("weight"))
            raise InputError(
                f"--weights {loading.weights}: these look like {name}: they hold {layer}; name `--encoder {name}`, or "
                f"the weights of {own}"
            )


def expected_shapes(convolution: Convolution, width: int, layers: int) -> Shapes:
    """Name → shape of the tensors that `atom_rows` reads, named as they are published."""
    shapes: Shapes = {
        "x_embedding1.weight": (ATOM_TYPES, width),
        "x_embedding2.weight": (len(CHIRALITIES), width),
    }
    for n in range(layers):
        shapes |= {f"gnns.{n}.{name}": shape for name, shape in convolution.shapes(width).items()}
        shapes[f"gnns.{n}.edge_embedding1.weight"] = (BOND_TYPE_ROWS, width)
        shapes[f"gnns.{n}.edge_embedding2.weight"] = (len(DIRECTIONS), width)
        shapes |= {f"batch_norms.{n}.{name}": (width,) for name in _NORM}
    return shapes


def atom_rows(graph: Graph, weights: Mapping[str, Tensor], convolution: Convolution, layers: int) -> Tensor:
    """Rows (A, D) of the atoms of a graph, on the device and in the type of the weights."""
    device = weights["x_embedding1.weight"].device
    atoms, edges = torch.from_numpy(graph.atoms).to(device), _edges(graph, device)
    x = weights["x_embedding1.weight"][atoms[:, 0]] + weights["x_embedding2.weight"][atoms[:, 1]]
    for n in range(layers):
        w = {name.removeprefix(f"gnns.{n}."): t for name, t in weights.items() if name.startswith(f"gnns.{n}.")}
        e = w["edge_embedding1.weight"][edges.kind] + w["edge_embedding2.weight"][edges.direction]
        mean, var, scale, shift = (weights[f"batch_norms.{n}.{name}"] for name in _NORM)
        x = F.batch_norm(convolution.apply(x, e, edges, w), mean, var, scale, shift, training=False, eps=_EPS)
        if n < layers - 1:
            x = F.relu(x)
    return x


def _edges(graph: Graph, device: torch.device) -> Edges:
    bonds = torch.from_numpy(graph.bonds).to(device)
    here = torch.arange(len(graph.atoms), device=device)
    source, target = torch.cat([torch.from_numpy(graph.edges).to(device), here.expand(2, -1)], dim=1)
    kind = torch.cat([bonds[:, 0], torch.full_like(here, SELF_LOOP)])
    return Edges(source, target, kind, torch.cat([bonds[:, 1], torch.zeros_like(here)]))
