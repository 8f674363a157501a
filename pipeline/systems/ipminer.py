"""`ipminer`: stacked autoencoders, and forests on their codes (Pan et al., BMC Genomics 2016;17:582).

After xypan1232/IPMiner@68aa6d7.  Protein triads over seven classes (343) and RNA tetranucleotides (256), counts ÷
length, standardised.  Then, on training pairs:

    greedy       of each partner layers d → 256 → 128 → 64 one after the other, each as an autoencoder of what the last
                 one gave: sigmoid in both directions, dropout ½ on its output, squared error, Adam, 100 epochs
    fine-tuned   both stacks, dropout ½ between layers, then PReLU, batch norm, dropout ½; joined (128) → 2 logits,
                 dropout ½ on these, softmax; SGD 0.01 with Nesterov momentum 0.9, 100 epochs
    stacked      three forests of 50 trees, on tuned codes, on greedy codes and on the 599 features: probabilities out
                 of fold in three folds → logistic regression; a new pair has the mean of the three folds' forests

Differs: scalers are fitted on the training part, where the original standardises over training and test pairs; it cuts
at ½, here the threshold is chosen on validation pairs, as for every system.  The Keras 0.1.2 that it needs was not run;
what its layers do is taken from their names (unverified: Glorot's uniform draw, a PReLU slope of 0, dropout's scale).

Shapes: P pairs, d features of a partner.
"""

from __future__ import annotations

import numpy as np
import torch
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from crossllm.pipeline.baselines.forest import drawn, fit_forest
from crossllm.pipeline.baselines.material import Material
from crossllm.pipeline.systems.autoencoders import greedy_encoders
from crossllm.pipeline.systems.fitted import refitting
from crossllm.pipeline.systems.layers import glorot
from crossllm.pipeline.systems.networks import shuffled
from crossllm.pipeline.systems.rpiseq_rf import triads

WIDTHS = (256, 128, 64)
EPOCHS, BATCH = 100, 100
TREES, FOLDS = 50, 3


def _predict(material: Material, fitted: np.ndarray, asked: np.ndarray) -> np.ndarray:
    seed = material.config.seed
    fitted = drawn(fitted, seed, "ipminer")
    labels = material.dataset.labels[fitted].astype(int)
    known, new = [], []
    for features, side in zip(triads(material), material.sides, strict=True):
        scaler = StandardScaler().fit(features[side.of_pair[fitted]])
        scaled = scaler.transform(features)
        known.append(scaled[side.of_pair[fitted]])
        new.append(scaled[side.of_pair[asked]])
    codes = _codes(known, labels, [known, new], seed, material.device)
    views = [*codes, [np.concatenate(rows, axis=1) for rows in (known, new)]]
    return _stacked([(own, others) for own, others in views], labels, seed)


def _codes(
    known: list[np.ndarray], labels: np.ndarray, wanted: list[list[np.ndarray]], seed: int, device: torch.device
) -> list[list[np.ndarray]]:
    """Tuned and greedy codes, (P, 128), of each list of two partners' features that is wanted."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        rows = [torch.from_numpy(found).float().to(device) for found in known]
        stacks = [_greedy(own) for own in rows]
        asked = [[torch.from_numpy(own).float().to(device) for own in both] for both in wanted]
        greedy = [_coded(stacks, both) for both in asked]
        tuned = _fine_tuned(stacks, rows, torch.from_numpy(labels).to(device))
        return [[_coded(tuned, both) for both in asked], greedy]


def _coded(stacks: list[nn.Sequential], rows: list[Tensor]) -> np.ndarray:
    """(P, 128) codes of both partners."""
    with torch.no_grad():
        codes = [stack.eval()(own) for stack, own in zip(stacks, rows, strict=True)]
    found: np.ndarray = torch.cat(codes, 1).cpu().numpy()
    return found


def _greedy(rows: Tensor) -> nn.Sequential:
    """Linear, sigmoid, linear, …: each layer trained to give back what it was given."""
    layers = greedy_encoders(rows, torch.arange(len(rows), device=rows.device), WIDTHS, EPOCHS, BATCH, dropout=0.5)
    return nn.Sequential(*(part for layer in layers for part in (layer, nn.Sigmoid())))


def _fine_tuned(stacks: list[nn.Sequential], rows: list[Tensor], labels: Tensor) -> list[nn.Sequential]:
    """The stacks trained on, each with PReLU and batch norm behind it; dropout stands where it does nothing later."""
    half, device = nn.Dropout(0.5), labels.device
    sides = []
    for stack in stacks:
        first, second, third = (nn.Sequential(*list(stack)[n : n + 2]) for n in (0, 2, 4))
        last = (nn.PReLU(WIDTHS[-1], 0.0), nn.BatchNorm1d(WIDTHS[-1]), half)
        sides.append(nn.Sequential(first, half, second, half, third, *last).to(device))
    head = nn.Sequential(glorot(nn.Linear(2 * WIDTHS[-1], 2)).to(device), half)
    whole = nn.ModuleList([*sides, head]).train()
    optimiser = torch.optim.SGD(whole.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    pairs = torch.arange(len(labels), device=device)
    for batch in (batch for _ in range(EPOCHS) for batch in shuffled(pairs, BATCH)):
        joined = torch.cat([side(own[batch]) for side, own in zip(sides, rows, strict=True)], 1)
        optimiser.zero_grad()
        nn.functional.cross_entropy(head(joined), labels[batch]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return sides


def _stacked(views: list[tuple[np.ndarray, np.ndarray]], labels: np.ndarray, seed: int) -> np.ndarray:
    """(P_asked,) probabilities; a view is the rows of the fitted pairs and of those asked for."""
    out, asked = np.empty((len(labels), len(views))), np.zeros((len(views[0][1]), len(views)))
    folds = list(StratifiedKFold(FOLDS).split(np.zeros(len(labels)), labels))
    for column, (known, new) in enumerate(views):
        for fit, rest in folds:
            forest = fit_forest(RandomForestClassifier, TREES, seed, known[fit], labels[fit])
            out[rest, column] = forest.predict_proba(known[rest])[:, 1]
            asked[:, column] += forest.predict_proba(new)[:, 1] / FOLDS
    found: np.ndarray = LogisticRegression().fit(out, labels).predict_proba(asked)[:, 1]
    return found


ipminer = refitting(_predict)
"""The system."""
