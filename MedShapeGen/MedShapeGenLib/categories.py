"""The categories of the bundled model and where their shapes came from: one row each, in the order of the class numbers."""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from MedShapeCore.errors import RefusedInput

Code = tuple[str, str, str]  # coding scheme, value, meaning; as in 3D Slicer's terminologies

ANATOMY: Code = ("SCT", "123037004", "Anatomical Structure")
LEFT: Code = ("SCT", "7771000", "Left")
RIGHT: Code = ("SCT", "24028007", "Right")
FEW_SUBJECTS = 20


@dataclass(frozen=True)
class Source:
    """A collection of shapes."""

    title: str
    address: str
    licence: str
    bundled: bool = True  # False: for measurement alone; enters no file that is released
    synthetic: bool = False  # True: not of patients


# The keys are what the pack's column `source` and `medshapegen train --sources` have.
SOURCES: dict[str, Source] = {
    "kits23": Source(
        "KiTS23 (Heller et al., arXiv:2307.01984)", "https://github.com/neheller/kits23", "CC BY-NC-SA 4.0"
    ),
    "msd-hippocampus": Source(
        "Medical Segmentation Decathlon, Task04 (Antonelli et al., Nat Commun 13:4128, 2022)",
        "https://github.com/udacity/nd320-c3-3d-imaging-starter", "CC BY-SA 4.0",
    ),
    "msd-pancreas": Source(
        "Medical Segmentation Decathlon, Task07 (Antonelli et al., Nat Commun 13:4128, 2022)",
        "https://github.com/modaresimr/evalseg", "CC BY-SA 4.0",
    ),
    "msd-spleen": Source(
        "Medical Segmentation Decathlon, Task09, meshes of Point2SSM (Adams and Elhabian, ICLR 2024)",
        "https://github.com/jadie1/Point2SSM", "CC BY-SA 4.0",
    ),
    "tcia-head-neck": Source(
        "Organs of head and neck (Nikolov et al., arXiv:1809.04430) on CT of TCGA-HNSC and Head-Neck Cetuximab (TCIA)",
        "https://github.com/google-deepmind/tcia-ct-scan-dataset", "CC BY 4.0",
    ),
    "luna-lobes": Source(
        "Lobes of the lung (Tang et al., ISBI 2019) on CT of LUNA16/LIDC-IDRI",
        "https://github.com/deep-voxel/automatic_pulmonary_lobe_segmentation_using_deep_learning", "CC BY-NC-SA 4.0",
    ),
    "multi-organ-ct": Source(
        "Multi-organ abdominal CT (Gibson et al., IEEE TMI 37:1822, 2018; Zenodo 1169361)",
        "https://github.com/modaresimr/evalseg", "CC BY 4.0",
    ),
    "skullfix": Source(
        "SkullFix (Kodym et al., Data in Brief 35:106902, 2021) on CT of CQ500",
        "https://doi.org/10.1016/j.dib.2021.106902", "CC BY-NC-SA 4.0",
    ),
    "parametric-trees": Source(
        "Parametric artery trees of this project, NOT patients", "MedShapeGenLib/training/trees.py", "CC0-1.0",
        synthetic=True,
    ),
    "intra": Source(
        "IntrA (Yang et al., CVPR 2020)", "https://github.com/intra3d2019/IntrA", "not stated", bundled=False
    ),
    "synthaorta": Source(
        "SynthAorta (Bosnjak et al., arXiv:2409.08635), NOT patients", "https://github.com/domagoj-bosnjak/SynthAorta",
        "GPL-3.0", bundled=False, synthetic=True,
    ),
    "knee-model": Source(
        "Samples of a knee model (Clouthier et al., Med Eng Phys 66:47, 2019), NOT patients",
        "https://github.com/aclouthier/SSM-morphable-model", "GPL-3.0", bundled=False, synthetic=True,
    ),
    "myosegmentum": Source(
        "MyoSegmenTUM spine (Burian et al., BMC Musculoskelet Disord 20:152, 2019)",
        "https://github.com/JonathanRamos/fastcleverseg", "not stated", bundled=False,
    ),
    "lumbar-discs": Source(
        "Lumbar MRI (Menezes-Reis et al., Quant Imaging Med Surg 6:402, 2016)",
        "https://github.com/JonathanRamos/fastcleverseg", "not stated", bundled=False,
    ),
    "left-atrium-2018": Source(
        "Left Atrial Segmentation Challenge 2018 (Xiong et al., Med Image Anal 67:101832, 2021)",
        "https://github.com/yulequan/UA-MT", "not stated", bundled=False,
    ),
    "femora-basel": Source(
        "Femora of the University of Basel's course on statistical shape models",
        "https://github.com/julianbopp/Statistical-Shape-Modelling-Project", "not stated", bundled=False,
    ),
    "femora-grenoble": Source(
        "Femora of a student project", "https://github.com/Basile-Mouret/Femur_Modeling", "not stated", bundled=False
    ),
    "own": Source("Shapes of a user's own folder", "", "not stated", bundled=False),
}  # fmt: skip


@dataclass(frozen=True)
class Category:
    """One row of the table. Counts and sizes are those of the training split."""

    name: str
    label: str
    colour: tuple[float, float, float]  # red, green, blue in 0..1: 3D Slicer's generic anatomy colours where it has one
    code: Code  # type, within the terminology category ANATOMY
    longest_mm: tuple[float, float]  # smallest and largest longest side of the box
    training_shapes: int
    training_subjects: int
    sources: tuple[str, ...]  # keys of SOURCES
    modifier: Code | None = None  # side
    paired: bool = False  # the right ones are mirrored: the model knows the left one
    tubular: bool = False  # a vessel or a tree of vessels
    components: int = 1  # bodies a shape has

    @property
    def few(self) -> bool:
        """True where the model saw too few people to know the category's variety."""
        return self.training_subjects < FEW_SUBJECTS

    @property
    def synthetic(self) -> bool:
        """True where no patient is behind the shapes."""
        return all(SOURCES[key].synthetic for key in self.sources)

    @property
    def licence(self) -> str:
        """Licences of the sources, each once."""
        return "; ".join(dict.fromkeys(SOURCES[key].licence for key in self.sources))

    def __str__(self) -> str:
        few = ", few" if self.few else ""
        low, high = self.longest_mm
        return f"{self.name}: {self.label}, {self.training_shapes} training shapes{few}, {low:.0f} to {high:.0f} mm"


def _row(
    name: str, label: str, rgb: tuple[int, int, int], code: str, meaning: str, longest_mm: tuple[float, float],
    shapes: int, subjects: int, *sources: str, modifier: Code | None = None, paired: bool = False, tubular: bool = False,
) -> Category:
    red, green, blue = (round(value / 255.0, 4) for value in rgb)
    return Category(
        name, label, (red, green, blue), ("SCT", code, meaning), longest_mm, shapes, subjects, sources, modifier, paired,
        tubular,
    )


HEAD_NECK, LUNGS, ABDOMEN = "tcia-head-neck", "luna-lobes", "multi-organ-ct"
UPPER, LOWER = ("45653009", "Upper lobe of lung"), ("90572001", "Lower lobe of lung")
CATEGORIES: tuple[Category, ...] = (
    _row("artery_tree", "artery tree (synthetic)", (216, 101, 79), "51114001", "Artery", (50.3, 65.5), 110, 110,
         "parametric-trees", tubular=True),
    _row("brain", "brain (outline, without sulci)", (250, 250, 225), "12738006", "Brain", (152.9, 180.2), 24, 23, HEAD_NECK),
    _row("brainstem", "brainstem", (145, 92, 109), "119238007", "Brain stem", (52.4, 70.0), 26, 25, HEAD_NECK),
    _row("calvaria", "calvaria (vault of the skull)", (241, 213, 144), "89546000", "Skull", (146.8, 188.3), 58, 58,
         "skullfix"),
    _row("duodenum", "duodenum", (255, 253, 229), "38848004", "Duodenum", (90.0, 130.9), 12, 12, ABDOMEN),
    _row("esophagus", "esophagus (lower part)", (211, 171, 143), "32849002", "Esophagus", (34.9, 74.8), 8, 8, ABDOMEN),
    _row("eyeball", "eyeball", (194, 142, 0), "79652003", "Eyeball", (23.6, 32.1), 46, 22, HEAD_NECK,
         modifier=LEFT, paired=True),
    _row("gallbladder", "gallbladder", (139, 150, 98), "28231008", "Gallbladder", (49.7, 99.6), 11, 11, ABDOMEN),
    _row("hippocampus", "hippocampus", (162, 115, 105), "5366008", "Hippocampus", (28.9, 47.4), 188, 188,
         "msd-hippocampus", modifier=LEFT, paired=True),
    _row("kidney", "kidney", (185, 102, 83), "64033007", "Kidney", (80.6, 146.2), 162, 139, "kits23", ABDOMEN,
         modifier=LEFT, paired=True),
    _row("liver", "liver", (221, 130, 101), "10200004", "Liver", (190.4, 303.2), 12, 12, ABDOMEN),
    _row("lung_left", "left lung", (197, 165, 145), "39607008", "Lung", (203.3, 303.9), 36, 36, LUNGS, modifier=LEFT),
    _row("lung_lobe_left_lower", "left lung, lower lobe", (224, 186, 162), *LOWER, (161.8, 255.7), 36, 36, LUNGS,
         modifier=LEFT),
    _row("lung_lobe_left_upper", "left lung, upper lobe", (172, 138, 115), *UPPER, (159.6, 283.4), 36, 36, LUNGS,
         modifier=LEFT),
    _row("lung_lobe_right_lower", "right lung, lower lobe", (224, 186, 162), *LOWER, (134.5, 247.3), 36, 36, LUNGS,
         modifier=RIGHT),
    _row("lung_lobe_right_middle", "right lung, middle lobe", (202, 164, 140), "72481006", "Middle lobe of right lung",
         (110.7, 185.6), 36, 36, LUNGS),
    _row("lung_lobe_right_upper", "right lung, upper lobe", (172, 138, 115), *UPPER, (138.2, 226.9), 36, 36, LUNGS,
         modifier=RIGHT),
    _row("lung_right", "right lung", (197, 165, 145), "39607008", "Lung", (197.5, 303.3), 36, 36, LUNGS, modifier=RIGHT),
    _row("mandible", "mandible", (222, 198, 101), "91609006", "Mandible", (110.0, 133.1), 26, 25, HEAD_NECK),
    _row("pancreas", "pancreas", (249, 180, 111), "15776009", "Pancreas", (72.3, 189.9), 62, 62, "msd-pancreas", ABDOMEN),
    _row("parotid_gland", "parotid gland", (70, 163, 117), "45289007", "Parotid gland", (39.9, 84.6), 46, 22, HEAD_NECK,
         modifier=LEFT, paired=True),
    _row("spinal_cord", "spinal cord (part in the scan)", (244, 214, 49), "2748008", "Spinal cord", (182.4, 339.9), 21, 21,
         HEAD_NECK),
    _row("spleen", "spleen", (157, 108, 162), "78961009", "Spleen", (65.8, 139.0), 38, 38, "msd-spleen", ABDOMEN),
    _row("stomach", "stomach", (216, 132, 105), "69695003", "Stomach", (118.6, 180.0), 12, 12, ABDOMEN),
    _row("submandibular_gland", "submandibular gland", (70, 163, 117), "54019009", "Submandibular gland", (29.4, 51.9), 41,
         20, HEAD_NECK, modifier=LEFT, paired=True),
)  # fmt: skip


def category(name: str) -> Category:
    """The row of a category; refuses an unknown name with those that come near, else with all of them."""
    for row in CATEGORIES:
        if row.name == name:
            return row
    names = [row.name for row in CATEGORIES]
    wanted = name.strip().lower().replace("-", "_").replace(" ", "_")
    near = difflib.get_close_matches(wanted, names, 3, 0.6) or [n for n in names if wanted and wanted in n]
    meant = f"Did you mean {' or '.join(near)}?" if near else f"There are: {', '.join(names)}."
    raise RefusedInput("unknown-category", f"There is no category {name!r}.", meant)


def class_number(name: str) -> int:
    """Place of a category in CATEGORIES: its class number in the networks."""
    return CATEGORIES.index(category(name))


def checked_sources(keys: tuple[str, ...]) -> tuple[str, ...]:
    """The same keys of SOURCES; refuses one that does not exist."""
    for key in keys:
        if key not in SOURCES:
            raise RefusedInput("unknown-source", f"There is no source {key!r}.", f"There are: {', '.join(SOURCES)}.")
    return keys
