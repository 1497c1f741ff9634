"""Puts a trained model among the bundled ones.

python benchmarks/bundle.py runs/nuclei-he/best nuclei-he

Weights are written in half precision. Name, description and the sources of the data sets are filled in here.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from cytoseed.models.weights import load_model, save_model
from places import ROOT

MODELS = ROOT / "src" / "cytoseed" / "models"
DESCRIPTIONS = {
    "nuclei": "Nuclei in fluorescence and stained brightfield images.",
    "nuclei-he": "Nuclei in sections stained with haematoxylin and eosin, at 20x to 40x.",
    "cells": "Nuclei and whole cells in fluorescence images of any number of channels.",
    "nuclei-he-nc": "Nuclei in sections stained with haematoxylin and eosin, at 40x; for non-commercial use only.",
}
SOURCES = {
    "nuinsseg": "NuInsSeg, Mahbod et al. 2024, https://zenodo.org/records/10518968",
    "tnbc": "Naylor et al. 2018, https://zenodo.org/records/3552674",
    "backgrounds": "regions without nuclei of NuInsSeg, and of CMU-1-Small-Region (OpenSlide test data, CC0-1.0)",
    "multiplex": "scenes with nuclei of DSB 2018, BBBC039 and BitDepth NucSeg (benchmarks/multiplex.py)",
    "vectra_cells": "Vectra fields of akoyabio/phenoptrExamples @ f5b35eef and akoyabio/phenoptr @ 7d5dceaa",
    "dab": "images of NuInsSeg and TNBC with synthetic DAB in place of eosin (benchmarks/tissue.py)",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path, help="folder of the trained model")
    parser.add_argument("name", choices=DESCRIPTIONS)
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    notes = [dataclasses.replace(note, source=SOURCES.get(note.name, note.source)) for note in model.config.trained_on]
    config = dataclasses.replace(
        model.config, name=arguments.name, description=DESCRIPTIONS[arguments.name], trained_on=tuple(notes)
    )
    print(save_model(model.segmenter, config, MODELS / arguments.name))


if __name__ == "__main__":
    main()
