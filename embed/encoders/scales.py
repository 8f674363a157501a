"""Published physico-chemical numbers, by letter.  Facts with their source; scaled to order one where noted."""

from __future__ import annotations

import numpy as np

NUCLEOTIDE_SCALES: dict[str, dict[str, float]] = {
    "purine": {"A": 1, "C": -1, "G": 1, "U": -1},
    "amino": {"A": 1, "C": 1, "G": -1, "U": -1},
    "strong pairing": {"A": -1, "C": 1, "G": 1, "U": -1},
    # Electron-ion interaction potential, Ry × 10: Nair & Sreenadhan, Bioinformation 2006;1:197.
    "EIIP": {"A": 1.260, "C": 1.340, "G": 0.806, "U": 1.335},
}

# Free energy of two stacked Watson-Crick pairs at 37 °C, kcal/mol ÷ 3, by 5'→3' dinucleotide:
# Xia et al., Biochemistry 1998;37:14719, table 4.  Rows: this nucleotide A C G U; columns: the next.
STACKING = np.array([
    [-0.93, -2.24, -2.08, -1.10],
    [-2.11, -3.26, -2.36, -2.08],
    [-2.35, -3.42, -3.26, -2.24],
    [-1.33, -2.35, -2.11, -0.93],
], np.float32) / 3  # fmt: skip

_ORDER = "ACDEFGHIKLMNPQRSTVWY"


def _scale(*values: float) -> dict[str, float]:
    return dict(zip(_ORDER, values, strict=True))


AMINO_SCALES: dict[str, dict[str, float]] = {
    # Hydropathy ÷ 4.5: Kyte & Doolittle, J Mol Biol 1982;157:105.
    "hydropathy": _scale(*(v / 4.5 for v in (
        1.8, 2.5, -3.5, -3.5, 2.8, -0.4, -3.2, 4.5, -3.9, 3.8, 1.9, -3.5, -1.6, -3.5, -4.5, -0.8, -0.7, 4.2, -0.9, -1.3))),
    # Residue volume, Å³ ÷ 100 − 1.4: Zamyatnin, Prog Biophys Mol Biol 1972;24:107.
    "volume": _scale(*(v / 100 - 1.4 for v in (
        88.6, 108.5, 111.1, 138.4, 189.9, 60.1, 153.2, 166.7, 168.6, 166.7,
        162.9, 114.1, 112.7, 143.8, 173.4, 89.0, 116.1, 140.0, 227.8, 193.6))),
    # Charge of the side chain at pH 7 (histidine about a tenth protonated).
    "charge": _scale(0, 0, -1, -1, 0, 0, 0.1, 0, 1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0),
    # Polarity ÷ 5 − 1.6: Grantham, Science 1974;185:862.
    "polarity": _scale(*(v / 5 - 1.6 for v in (
        8.1, 5.5, 13.0, 12.3, 5.2, 9.0, 10.4, 5.2, 11.3, 4.9, 5.7, 11.6, 8.0, 10.5, 10.5, 9.2, 8.6, 5.9, 5.4, 6.2))),
    # Helix and sheet propensity − 1: Chou & Fasman, Adv Enzymol 1978;47:45.
    "helix": _scale(*(v - 1 for v in (
        1.42, 0.70, 1.01, 1.51, 1.13, 0.57, 1.00, 1.08, 1.16, 1.21, 1.45, 0.67, 0.57, 1.11, 0.98, 0.77, 0.83, 1.06, 1.08, 0.69))),
    "sheet": _scale(*(v - 1 for v in (
        0.83, 1.19, 0.54, 0.37, 1.38, 0.75, 0.87, 1.60, 0.74, 1.30, 1.05, 0.89, 0.55, 1.10, 0.93, 0.75, 1.19, 1.70, 1.37, 1.47))),
    # Isoelectric point ÷ 4 − 1.5: CRC Handbook of Chemistry and Physics.
    "isoelectric point": _scale(*(v / 4 - 1.5 for v in (
        6.00, 5.07, 2.77, 3.22, 5.48, 5.97, 7.59, 6.02, 9.74, 5.98, 5.74, 5.41, 6.30, 5.65, 10.76, 5.68, 5.60, 5.96, 5.89, 5.66))),
    "aromatic": _scale(*(float(x in "FHWY") for x in _ORDER)),
}  # fmt: skip

# Classes of the conjoint triad (dipole and volume of the side chain): Shen et al., PNAS 2007;104:4337.
CONJOINT_TRIAD = {"1": "AGV", "2": "ILFP", "3": "YMTS", "4": "HNQW", "5": "RK", "6": "DE", "7": "C"}

# Log odds of substitution, half bits: Henikoff & Henikoff, PNAS 1992;89:10915.  Columns in the order of _ORDER.
BLOSUM62: dict[str, tuple[int, ...]] = {
    "A": (4, 0, -2, -1, -2, 0, -2, -1, -1, -1, -1, -2, -1, -1, -1, 1, 0, 0, -3, -2),
    "C": (0, 9, -3, -4, -2, -3, -3, -1, -3, -1, -1, -3, -3, -3, -3, -1, -1, -1, -2, -2),
    "D": (-2, -3, 6, 2, -3, -1, -1, -3, -1, -4, -3, 1, -1, 0, -2, 0, -1, -3, -4, -3),
    "E": (-1, -4, 2, 5, -3, -2, 0, -3, 1, -3, -2, 0, -1, 2, 0, 0, -1, -2, -3, -2),
    "F": (-2, -2, -3, -3, 6, -3, -1, 0, -3, 0, 0, -3, -4, -3, -3, -2, -2, -1, 1, 3),
    "G": (0, -3, -1, -2, -3, 6, -2, -4, -2, -4, -3, 0, -2, -2, -2, 0, -2, -3, -2, -3),
    "H": (-2, -3, -1, 0, -1, -2, 8, -3, -1, -3, -2, 1, -2, 0, 0, -1, -2, -3, -2, 2),
    "I": (-1, -1, -3, -3, 0, -4, -3, 4, -3, 2, 1, -3, -3, -3, -3, -2, -1, 3, -3, -1),
    "K": (-1, -3, -1, 1, -3, -2, -1, -3, 5, -2, -1, 0, -1, 1, 2, 0, -1, -2, -3, -2),
    "L": (-1, -1, -4, -3, 0, -4, -3, 2, -2, 4, 2, -3, -3, -2, -2, -2, -1, 1, -2, -1),
    "M": (-1, -1, -3, -2, 0, -3, -2, 1, -1, 2, 5, -2, -2, 0, -1, -1, -1, 1, -1, -1),
    "N": (-2, -3, 1, 0, -3, 0, 1, -3, 0, -3, -2, 6, -2, 0, 0, 1, 0, -3, -4, -2),
    "P": (-1, -3, -1, -1, -4, -2, -2, -3, -1, -3, -2, -2, 7, -1, -2, -1, -1, -2, -4, -3),
    "Q": (-1, -3, 0, 2, -3, -2, 0, -3, 1, -2, 0, 0, -1, 5, 1, 0, -1, -2, -2, -1),
    "R": (-1, -3, -2, 0, -3, -2, 0, -3, 2, -2, -1, 0, -2, 1, 5, -1, -1, -3, -3, -2),
    "S": (1, -1, 0, 0, -2, 0, -1, -2, 0, -2, -1, 1, -1, 0, -1, 4, 1, -2, -3, -2),
    "T": (0, -1, -1, -1, -2, -2, -2, -1, -1, -1, -1, 0, -1, -1, -1, 1, 5, 0, -2, -2),
    "V": (0, -1, -3, -2, -1, -3, -3, 3, -2, 1, 1, -3, -2, -2, -3, -2, 0, 4, -3, -1),
    "W": (-3, -2, -4, -3, 1, -2, -2, -3, -3, -2, -1, -4, -4, -2, -3, -3, -2, -3, 11, 2),
    "Y": (-2, -2, -3, -2, 3, -3, 2, -1, -2, -1, -1, -2, -3, -1, -2, -2, -2, -1, 2, 7),
}  # fmt: skip
