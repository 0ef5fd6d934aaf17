"""Read files of other tools into plain values, bounded in size, with one clear line for every fault."""
