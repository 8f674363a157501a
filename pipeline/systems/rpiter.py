"""`rpiter`: convolutions and stacked autoencoders on k-mers, and a small network that combines what they say.

RPITER (Peng et al., Int J Mol Sci 2019;20:1070; Pengeace/RPITER@a894a3d), published on RPI488: MCC 0.793 by its own
result file's mean of folds.

- Features: protein k 1–3 over seven classes (399), RNA k 1–4 (340), each k's counts ÷ their largest.
- Module CNN: a tower a side (convolutions 45 × 6, 64 × 5, 45 × 4, dense 64), joined → 128 → 64 → 2.
- Module SAE: stacked autoencoders 256-128-64 a side, joined → 128 → 64 → 2.
- Combination: the modules' class probabilities → 16 → 8 → 2, trained with all that is below it.
- Each part first by Adam (10⁻³), then by SGD (10⁻², momentum ½), with the settings for RPI2241: at most 35 and 10
  epochs, 15 and 10 of the combination, batches of 150, patience 10; autoencoders 100 epochs a layer.

What differs: two of the four modules read secondary structure as well, and are left out, since no kept package
predicts that of proteins; so four probabilities are combined, not eight.  Features are standardised on the training
part, not on all pairs.  The epoch is the best on validation, not by training accuracy.  Batch normalisation has torch's
momentum.

Not verified: the paper's text; the recipe is the code's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from crossllm.pipeline.baselines.material import Material
from crossllm.pipeline.features.kmers import NUCLEOTIDES, RESIDUE_CLASSES, Alphabet, kmer_counts
from crossllm.pipeline.splits.parts import Parts
from crossllm.pipeline.systems.autoencoders import greedy_encoders
from crossllm.pipeline.systems.fitted import Fitted, Told, side_of
from crossllm.pipeline.systems.layers import TwoClasses, glorot, norm
from crossllm.pipeline.systems.networks import Inputs, Schedule, adam, epochs_told, scored, seed_fold, train_network

PROTEIN_KMERS = Alphabet(RESIDUE_CLASSES, (1, 2, 3))
RNA_KMERS = Alphabet(NUCLEOTIDES, (1, 2, 3, 4))
CODES = (256, 128, 64)
AUTOENCODER_EPOCHS = 100
EPOCHS = ((35, 10), (35, 10), (15, 10))
"""By Adam and by SGD at most: of the convolutions, of the autoencoders, and of both combined."""
BATCH = 150
DROPOUT = 0.2


def schedules(first: int, second: int) -> tuple[Schedule, Schedule]:
    """By Adam, then by SGD, at most so many epochs each."""
    return (
        Schedule(adam, first, BATCH),
        Schedule(lambda parameters: torch.optim.SGD(parameters, lr=1e-2, momentum=0.5), second, BATCH),
    )


def kmers_of_largest(sequences: Sequence[str], alphabet: Alphabet) -> np.ndarray:
    """(S, F) counts of the words of each k ÷ the largest of them."""
    blocks = [kmer_counts(sequences, alphabet.classes, k) for k in alphabet.sizes]
    found: np.ndarray = np.concatenate([block / np.maximum(block.max(1, keepdims=True), 1) for block in blocks], axis=1)
    return found


class Tower(nn.Sequential):
    """(B, F) → (B, 64): convolutions over the features in a line, without zeros beside it."""

    def __init__(self, features: int) -> None:
        length = (((features - 5) // 2) - 4) // 2 - 3
        super().__init__(
            nn.Unflatten(1, (1, features)),
            nn.Conv1d(1, 45, 6), nn.ReLU(), nn.MaxPool1d(2), norm(45), nn.Dropout(DROPOUT),
            nn.Conv1d(45, 64, 5), nn.ReLU(), nn.MaxPool1d(2), norm(64), nn.Dropout(DROPOUT),
            nn.Conv1d(64, 45, 4), nn.ReLU(), norm(45), nn.Dropout(DROPOUT),
            nn.Flatten(), nn.Linear(45 * length, 64), nn.Dropout(DROPOUT),
        )  # fmt: skip


class Codes(nn.Sequential):
    """(B, F) → (B, 64): a side's pre-trained encoders."""

    def __init__(self, encoders: Sequence[nn.Linear]) -> None:
        layers = [layer for encoder in encoders for layer in (encoder, nn.Sigmoid(), nn.Dropout(DROPOUT))]
        super().__init__(*layers, norm(CODES[-1]), nn.Dropout(DROPOUT))


class Module(nn.Module):
    """One side's part beside the other's, joined → 128 → 64 → 2: (B,) logits."""

    def __init__(self, protein: nn.Module, rna: nn.Module) -> None:
        super().__init__()
        self.protein, self.rna = protein, rna
        self.joined = nn.Sequential(
            _uniform(128, 128), nn.ReLU(), norm(128), _uniform(128, 64), nn.ReLU(), glorot(TwoClasses(64))
        )

    def forward(self, protein: Tensor, rna: Tensor) -> Tensor:
        """(B, F) of each side → (B,)."""
        logits: Tensor = self.joined(torch.cat([self.protein(protein), self.rna(rna)], dim=1))
        return logits


class Combination(nn.Module):
    """The probabilities of all modules, both classes of each → 16 → 8 → 2: (B,) logits."""

    def __init__(self, modules: Sequence[Module]) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)
        self.joined = nn.Sequential(
            nn.Dropout(0.25), _uniform(2 * len(modules), 16), nn.ReLU(), norm(16), _uniform(16, 8), nn.ReLU(), norm(8),
            glorot(TwoClasses(8)),
        )  # fmt: skip

    def forward(self, protein: Tensor, rna: Tensor) -> Tensor:
        """(B, F) of each side → (B,)."""
        positive = torch.stack([part(protein, rna) for part in self.parts], dim=1).sigmoid()
        logits: Tensor = self.joined(torch.cat([1 - positive, positive], dim=1))
        return logits


def rpiter(material: Material, parts: Parts, number: int, told: Told) -> Fitted:
    """Fit one fold; the history is that of the combination by SGD, the last of six trainings."""
    seed_fold(material.config.seed, number)
    protein, rna = (side_of(material, modality) for modality in ("protein", "rna"))
    features = [
        kmers_of_largest(material.sequences[protein], PROTEIN_KMERS),
        kmers_of_largest(material.sequences[rna], RNA_KMERS),
    ]
    inputs = Inputs.standardised(features, [material.sides[side].of_pair for side in (protein, rna)], parts.train)
    inputs = inputs.to(material.device)
    told("training autoencoders", 0.0)
    codes = [
        Codes(greedy_encoders(rows, of_pair[parts.train], CODES, AUTOENCODER_EPOCHS, BATCH))
        for rows, of_pair in zip(inputs.blocks, inputs.of_pair, strict=True)
    ]
    towers = [glorot(Tower(block.shape[1])) for block in inputs.blocks]
    modules = [Module(*towers), Module(*codes)]
    networks = (*modules, Combination(modules))
    steps = [(net, way) for net, most in zip(networks, EPOCHS, strict=True) for way in schedules(*most)]
    for n, (network, schedule) in enumerate(steps):
        tell = epochs_told(told, schedule, (n + 1) / 7, (n + 2) / 7)
        trained = train_network(network, inputs, material, parts, schedule, tell)
    return scored(networks[-1], inputs, material, parts, trained)


def _uniform(inputs: int, outputs: int) -> nn.Linear:
    """A layer with initial weights from −0.05 to 0.05, as Keras's `random_uniform` draws them, and biases 0."""
    layer = nn.Linear(inputs, outputs)
    nn.init.uniform_(layer.weight, -0.05, 0.05)
    nn.init.zeros_(layer.bias)
    return layer
