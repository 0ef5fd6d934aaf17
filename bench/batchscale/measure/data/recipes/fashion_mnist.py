"""Fashion-MNIST: 70,000 pictures of clothes of 28 x 28 pixels (Xiao et al., 1708.07747); 55,000 / 5,000 / 10,000."""

from pathlib import Path

from batchscale.measure.data.files.downloads import DebianPackage, Mirror
from batchscale.measure.data.files.sources import Folder
from batchscale.measure.data.idx_format import idx_files, split_idx
from batchscale.measure.data.recipe import Recipe

RECIPE = Recipe(
    files=idx_files(
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
    sources=(
        Folder(Path("/usr/share/datasets/fashion-mnist"), "system package dataset-fashion-mnist"),
        Mirror("https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion"),
        Mirror("https://storage.googleapis.com/tensorflow/tf-keras-datasets"),
        DebianPackage("dataset-fashion-mnist", "/usr/share/datasets/fashion-mnist"),
    ),
    make=split_idx,
)
