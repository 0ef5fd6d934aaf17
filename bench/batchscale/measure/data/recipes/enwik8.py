"""enwik8: the first 100,000,000 bytes of the English Wikipedia of March 2006 (Mahoney's compression benchmark)."""

from batchscale.measure.data.files.downloads import Mirror
from batchscale.measure.data.files.packings import ZIP, DataFile
from batchscale.measure.data.recipe import Recipe
from batchscale.measure.data.text import windows_of_file

RECIPE = Recipe(
    files=(DataFile("enwik8", "2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8", 100_000_000),),
    sources=(Mirror("https://mattmahoney.net/dc", ZIP), Mirror("https://data.deepai.org", ZIP)),
    make=windows_of_file,
)
