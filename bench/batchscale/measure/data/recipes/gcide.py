"""The GNU Collaborative International Dictionary of English (Webster 1913 with WordNet): 39,931,507 bytes of prose.

It is the Debian package `dict-gcide` (GPL-2+). The first bytes of its file hold the date of its conversion, so they are
no part of the text.
"""

from pathlib import Path

from batchscale.measure.data.files.downloads import DebianPackage
from batchscale.measure.data.files.packings import DataFile, dictzip
from batchscale.measure.data.files.sources import Folder
from batchscale.measure.data.recipe import Recipe
from batchscale.measure.data.text import windows_of_file

PACKING = dictzip(header_bytes=20_814)

RECIPE = Recipe(
    files=(DataFile("gcide.dict", "615f359a07c07b4c3bf420e2f41399b72e37eb333313144c6b5036759241f9f8", 39_931_507),),
    sources=(
        Folder(Path("/usr/share/dictd"), "system package dict-gcide", packings=(PACKING,)),
        DebianPackage("dict-gcide", "/usr/share/dictd", PACKING),
    ),
    make=windows_of_file,
)
