"""`lpi_csffr`: k-mers and pseudo composition in a line, through two blocks of dense convolutions in series.

LPI-CSFFR (Huang et al. 2022; JianjunTan-Beijing/LPI-CSFFR@c6d9101, `conjoint_cnn_sep_denseblock`), published on RPI1460
with random negatives: MCC 0.656, AUROC 0.858.

- First line: protein k 1–3 over twenty residues (8,420), RNA k 1–4 (340), each ÷ the words there are; widened to 78
  channels, one block.
- Second line: the first one's output, and behind it the pseudo composition (22 + 18), widened; one block.
- Flatten → 192 → 64 → 2; Adam 10⁻³, batches of 50, at most 30 epochs.

What differs: the third line, secondary structures as their predictors give them (39 + 30), is left out, as no kept
package predicts those of proteins.  The pseudo composition has Chou's three properties and the six steps of A-RNA; the
published columns fit all 531 complete entries of AAindex and all 22 RNA indices of DiProDB better.  Features are
standardised on the training part, not on all pairs, and the epoch is the one of the highest validation AUROC, not of
the highest training accuracy; it stops after 5 epochs without a better one, not 10.  Batch normalisation has torch's
momentum.

Not verified: the paper's own text; the recipe is the code's.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from crossllm.pipeline.baselines.material import Material
from crossllm.pipeline.features.kmers import NUCLEOTIDES, RESIDUES, Alphabet, kmer_shares
from crossllm.pipeline.features.pseudo import pseudo_protein, pseudo_rna
from crossllm.pipeline.splits.parts import Parts
from crossllm.pipeline.systems.dense_block import KERNEL, DenseBlock, Head, Widen, convolved
from crossllm.pipeline.systems.fitted import Fitted, Told, side_of
from crossllm.pipeline.systems.layers import glorot
from crossllm.pipeline.systems.networks import Inputs, Schedule, adam, epochs_told, scored, seed_fold, train_network

PROTEIN_KMERS = Alphabet(RESIDUES, (1, 2, 3))
RNA_KMERS = Alphabet(NUCLEOTIDES, (1, 2, 3, 4))
SCHEDULE = Schedule(adam, epochs=30, batch=50, patience=5)


class LpiCsffr(nn.Module):
    """The network.

    Args:
        rest: (L,) what counts of 0 have become in the first line; L features of it.
        pseudo: features of the second line.
    """

    rest: Tensor

    def __init__(self, rest: Tensor, pseudo: int) -> None:
        super().__init__()
        self.first, self.second = glorot(DenseBlock()), glorot(DenseBlock())
        self.widen_counts, self.widen_pseudo = Widen(), Widen()
        self.head = glorot(Head((len(rest) // KERNEL + pseudo) // KERNEL))
        self.register_buffer("rest", rest, persistent=False)

    def forward(self, protein: Tensor, rna: Tensor, pseudo_protein: Tensor, pseudo_rna: Tensor) -> Tensor:
        """(B, F) of each → (B,) logits."""
        line = torch.cat([protein, rna], dim=1)
        counts = self.first.pooled(convolved(line, self.rest, self.widen_counts, self.first.conv))
        pseudo = self.widen_pseudo(torch.cat([pseudo_protein, pseudo_rna], dim=1))
        logits: Tensor = self.head(self.second(torch.cat([counts, pseudo], dim=2)))
        return logits


def lpi_csffr(material: Material, parts: Parts, number: int, told: Told) -> Fitted:
    """Fit one fold."""
    seed_fold(material.config.seed, number)
    protein, rna = (side_of(material, modality) for modality in ("protein", "rna"))
    proteins, rnas = material.sequences[protein], material.sequences[rna]
    of_pair = [material.sides[side].of_pair for side in (protein, rna)]
    counts = [_with_zeros(kmer_shares(proteins, PROTEIN_KMERS)), _with_zeros(kmer_shares(rnas, RNA_KMERS))]
    pseudo = [pseudo_protein(proteins), pseudo_rna(rnas)]
    inputs = Inputs.standardised([*counts, *pseudo], [*of_pair, *of_pair], parts.train).to(material.device)
    rest = torch.cat([block[-1] for block in inputs.blocks[:2]])
    network = LpiCsffr(rest, sum(features.shape[1] for features in pseudo))
    trained = train_network(network, inputs, material, parts, SCHEDULE, epochs_told(told, SCHEDULE))
    return scored(network, inputs, material, parts, trained)


def _with_zeros(features: np.ndarray) -> np.ndarray:
    """And a last row of zeros, of no sequence."""
    return np.concatenate([features, np.zeros((1, features.shape[1]), features.dtype)])
