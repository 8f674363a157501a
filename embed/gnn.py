"""`gnn-gcn`: the pretrained graph convolution network of Hu et al. 2020 (arXiv:1905.12265), written from the paper.

Five layers of Kipf & Welling's convolution (arXiv:1609.02907, equation 2) with bond embeddings in the messages.
For atom i, its neighbours j and a self-loop:

    x_i' = norm( Σ_j (d_i d_j)^-1/2 (W x_j + b + e_ij) )        d: neighbours and the self-loop, counted
    e_ij = type embedding + direction embedding of the bond      norm: batch norm with the running statistics

and ReLU after every layer but the last, whose output is the rows.
Shapes: A atoms, E directed edges, D width.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cache.records import Record
from embed.device import device_of
from embed.encoder import Loading
from embed.molgraph import ATOM_TYPES, SELF_LOOP, Graph, graph_of, packed
from embed.weights import pick_tensors, read_settled
from embed.windows import by_budget

DIM, LAYERS = 300, 5
_EPS = 1e-5
_UNUSED = r"batch_norms\.\d+\.num_batches_tracked"


class GcnEncoder:
    """Implements `embed.encoder.Encoder` for molecules."""

    name = "gnn-gcn"
    modality = "molecule"
    dim = DIM
    limit: int | None = None

    def __init__(self, loading: Loading) -> None:
        self._device = device_of(loading.device)
        assert loading.weights is not None  # find_encoder asked for it
        found = pick_tensors(loading.weights, read_settled(loading), expected_shapes(DIM, LAYERS), _UNUSED)
        self._weights = {name: tensor.to(self._device, torch.float32) for name, tensor in found.items()}
        self._batch_tokens = loading.batch_tokens
        self.notes: Counter[str] = Counter()

    def encode(self, records: Iterable[Record]) -> Iterator[tuple[bytes, np.ndarray]]:
        """`(key, rows)`, rows (A, 300) float32."""
        for group in by_budget(records, self._batch_tokens):
            graphs = [graph_of(record.sequence) for record in group]
            self.notes.update(chain.from_iterable(graph.notes for graph in graphs))
            with torch.inference_mode():
                rows = gcn(packed(graphs), self._weights, LAYERS).cpu().numpy()
            ends = np.cumsum([len(graph.atoms) for graph in graphs])
            for record, part in zip(group, np.split(rows, ends[:-1]), strict=True):
                yield record.key, part


def expected_shapes(width: int, layers: int) -> dict[str, tuple[int, ...]]:
    """Name → shape of the tensors that `gcn` reads."""
    shapes: dict[str, tuple[int, ...]] = {
        "x_embedding1.weight": (ATOM_TYPES, width),
        "x_embedding2.weight": (3, width),
    }
    for n in range(layers):
        shapes[f"gnns.{n}.linear.weight"] = (width, width)
        shapes[f"gnns.{n}.linear.bias"] = (width,)
        shapes[f"gnns.{n}.edge_embedding1.weight"] = (6, width)
        shapes[f"gnns.{n}.edge_embedding2.weight"] = (3, width)
        for name in ("weight", "bias", "running_mean", "running_var"):
            shapes[f"batch_norms.{n}.{name}"] = (width,)
    return shapes


def gcn(graph: Graph, weights: Mapping[str, Tensor], layers: int) -> Tensor:
    """Rows (A, D) of the atoms of a graph, on the device and in the type of the weights."""
    w, device = weights, weights["x_embedding1.weight"].device
    atoms, bonds = torch.from_numpy(graph.atoms).to(device), torch.from_numpy(graph.bonds).to(device)
    here = torch.arange(len(atoms), device=device)
    # Every edge of the graph, then one self-loop an atom.
    source, target = torch.cat([torch.from_numpy(graph.edges).to(device), here.expand(2, -1)], dim=1)
    kind = torch.cat([bonds[:, 0], torch.full_like(here, SELF_LOOP)])
    direction = torch.cat([bonds[:, 1], torch.zeros_like(here)])
    x = w["x_embedding1.weight"][atoms[:, 0]] + w["x_embedding2.weight"][atoms[:, 1]]
    root = torch.bincount(source, minlength=len(atoms)).to(x.dtype).rsqrt()
    scale = (root[source] * root[target]).unsqueeze(1)
    for n in range(layers):
        e = w[f"gnns.{n}.edge_embedding1.weight"][kind] + w[f"gnns.{n}.edge_embedding2.weight"][direction]
        y = F.linear(x, w[f"gnns.{n}.linear.weight"], w[f"gnns.{n}.linear.bias"])
        x = torch.zeros_like(y).index_add_(0, target, scale * (y[source] + e))
        mean, var, weight, bias = (w[f"batch_norms.{n}.{p}"] for p in ("running_mean", "running_var", "weight", "bias"))
        x = F.batch_norm(x, mean, var, weight, bias, training=False, eps=_EPS)
        if n < layers - 1:
            x = F.relu(x)
    return x
