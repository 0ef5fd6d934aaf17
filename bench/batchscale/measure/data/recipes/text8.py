"""text8: 100,000,000 letters a to z and spaces, cleaned from the text of enwik8 (Mahoney)."""

from batchscale.measure.data.files.downloads import Mirror
from batchscale.measure.data.files.packings import ZIP, DataFile
from batchscale.measure.data.recipe import Recipe
from batchscale.measure.data.text import windows_of_file

RECIPE = Recipe(
    files=(DataFile("text8", "6e890197040d37d85beb962ae1f041ff1d9a9ca8d20c7d99c85027eebf51dca7", 100_000_000),),
    sources=(Mirror("https://mattmahoney.net/dc", ZIP),),
    make=windows_of_file,
)
