"""tinyshakespeare: 1,115,394 bytes of Shakespeare's plays, as used by char-rnn and nanoGPT (Karpathy)."""

from batchscale.measure.data.files.downloads import Mirror
from batchscale.measure.data.files.packings import PLAIN, DataFile
from batchscale.measure.data.recipe import Recipe
from batchscale.measure.data.text import windows_of_file

RECIPE = Recipe(
    files=(DataFile("input.txt", "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed", 1_115_394),),
    sources=(Mirror("https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a/data/tinyshakespeare", PLAIN),),
    make=windows_of_file,
)
