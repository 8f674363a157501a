"""The plot of an explained pair: a track of importance for each partner, and the deletion curve beneath.

Shapes: L places of a partner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from crossllm.cache.records.modality import UNITS
from crossllm.pipeline.explaining.explanation import Deletion, Explanation, Track
from crossllm.pipeline.reporting.figures import empty_figure, figure_bytes, plain_label

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FOR, AGAINST, OCCLUDED = "#0072b2", "#d55e00", "#000000"
"""Colours that the colour-blind tell apart (Okabe & Ito 2008)."""
LETTERS_UP_TO = 120
"""Places of a track under each of which its letter stands."""
_LETTER_INCHES = 0.14


def tracks_bytes(found: Explanation, unit: str, kind: str, name: str) -> bytes:
    """The plot as a file of this kind (`figures.KINDS`).

    Args:
        found: the pair.
        unit: of the output: logit or affinity.
        kind: png, svg or pdf.
        name: of the plot; two plots of one pair have the same bytes.
    """
    longest = max(len(found.a.letters), len(found.b.letters))
    lettered = min(longest, LETTERS_UP_TO)
    figure = empty_figure(float(np.clip(_LETTER_INCHES * lettered + 1.5, 7, 18)), 8)
    axes = figure.subplots(3, 1, height_ratios=[1, 1, 0.9])
    for axis, track, side in zip(axes, (found.a, found.b), "AB", strict=False):
        _draw_track(axis, track, side, unit)
    low, high = _limits(found)
    for axis in axes[:2]:
        axis.set_ylim(low, high)
    named = dict(zip(*axes[0].get_legend_handles_labels()[::-1], strict=True))
    figure.legend(named.values(), named.keys(), fontsize="small", ncols=4, loc="outside lower center", frameon=False)
    _draw_deletion(axes[2], found.deletion, unit)
    _say_numbers(figure, found, unit)
    return figure_bytes(figure, name, kind)


def _draw_track(axis: Any, track: Track, side: str, unit: str) -> None:
    places, values = np.arange(1, len(track.letters) + 1), track.attribution
    for sign, colour, label in ((1, FOR, f"raises the {unit}"), (-1, AGAINST, "lowers it")):
        axis.fill_between(
            *_steps(places, np.where(sign * values > 0, values, 0.0)), color=colour, linewidth=0, label=label
        )
    if track.deviation is not None:
        low, high = values - track.deviation, values + track.deviation
        shown = _steps(places, low), _steps(places, high)
        axis.fill_between(
            shown[0][0], shown[0][1], shown[1][1], color="grey", alpha=0.3, linewidth=0, label="± between models"
        )
    axis.plot(places, track.occlusion, color=OCCLUDED, linewidth=0.8, label="occlusion")
    axis.axhline(0, color="grey", linewidth=0.5)
    axis.set_xlim(0.5, len(places) + 0.5)
    axis.set_ylabel(f"{unit} a place", fontsize="small")
    title = f"{side}: {track.modality} {plain_label(track.id)}, {len(places)} {UNITS[track.modality]}"
    axis.set_title(title, fontsize="medium", loc="left")
    if len(places) <= LETTERS_UP_TO:
        axis.set_xticks(places, [plain_label(letter) for letter in track.letters], fontsize=6.5, family="monospace")
        axis.tick_params(axis="x", length=0)
        _number_tens(axis, len(places))


def _steps(places: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(2 L,) corners of a step for each place: one polygon, where thousands of bars would each be drawn."""
    return np.stack([places - 0.5, places + 0.5], 1).ravel(), np.repeat(values, 2)


def _number_tens(axis: Any, length: int) -> None:
    for place in range(10, length + 1, 10):
        axis.text(
            place, 0.01, str(place), transform=axis.get_xaxis_transform(), fontsize=5.5, ha="center", color="grey"
        )


def _limits(found: Explanation) -> tuple[float, float]:
    """One scale for both tracks: a place of one partner is compared with one of the other."""
    values = [np.zeros(1)]
    for track in (found.a, found.b):
        spread = np.zeros(len(track.letters)) if track.deviation is None else track.deviation
        values += [track.attribution - spread, track.attribution + spread, track.occlusion]
    low, high = float(np.concatenate(values).min()), float(np.concatenate(values).max())
    margin = 0.08 * (high - low) or 1.0
    return low - margin, high + margin


def _draw_deletion(axis: Any, curve: Deletion, unit: str) -> None:
    share = 100 * curve.share
    axis.plot(share, curve.top, color=FOR, marker=".", label="most important places first")
    (line,) = axis.plot(share, curve.random_mean, color="grey", marker=".", label="random places, mean ± deviation")
    low, high = curve.random_mean - curve.random_std, curve.random_mean + curve.random_std
    axis.fill_between(share, low, high, color=line.get_color(), alpha=0.3, linewidth=0)
    axis.set(xlabel="places of both partners deleted, %", xlim=(0, 100))
    axis.set_ylabel(unit, fontsize="small")
    axis.legend(fontsize="small", frameon=False)


def _say_numbers(figure: Figure, found: Explanation, unit: str) -> None:
    votes = "" if found.votes is None else f", {found.votes} of {found.models} models predict 1"
    rank = "–" if found.rank_correlation is None else f"{found.rank_correlation:.2f}"
    worst = max(found.errors, key=abs)
    text = (
        f"{unit} {found.value:.2f}; nothing known of A: {found.without[0]:.2f}, of B: {found.without[1]:.2f}{votes}\n"
        f"convergence error {worst:+.1e}; rank correlation with occlusion {rank}"
    )
    figure.suptitle(text, fontsize="medium")
