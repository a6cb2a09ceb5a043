"""The family in plain code, as its authors' codes compute it: the yardstick of `python -m benchmarks.plain_form`."""

from __future__ import annotations

from benchmarks.plain.adrec import PlainADRec
from benchmarks.plain.bbdrec import PlainBBDRec
from benchmarks.plain.diffrec import PlainDiffRec
from benchmarks.plain.diffurec import PlainDiffuRec
from benchmarks.plain.dreamrec import PlainDreamRec
from benchmarks.plain.fmrec import PlainFMRec
from benchmarks.plain.parts import PlainForm
from benchmarks.plain.preferdiff import PlainPreferDiff
from benchmarks.plain.prefergrow import PlainPreferGrow
from benchmarks.plain.rfmrec import PlainRFMRec

PLAIN_FORMS: dict[str, type[PlainForm]] = {
    "DiffuRec": PlainDiffuRec,
    "DiffRec": PlainDiffRec,
    "FMRec": PlainFMRec,
    "DreamRec": PlainDreamRec,
    "PreferDiff": PlainPreferDiff,
    "PreferGrow": PlainPreferGrow,
    "ADRec": PlainADRec,
    "BBDRec": PlainBBDRec,
    "RFMRec": PlainRFMRec,
}
