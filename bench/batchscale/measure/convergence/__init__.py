"""The convergence stage: many training runs in one program, to find how many steps each batch size needs.

The words of this folder, from small to large:

- **lane**: one trial (batch size, point, seed) while it trains mapped with others.
- **point**: a learning rate with the optimizer options searched next to it.
- **setting**: phase, batch size and point: all that lanes of one column share. Rows differ in the seed.
- **tick**: one microbatch of training, of all lanes at the same time.
- **shard**: the lanes [seed, setting] of one program call.
- **wave**: the shards that memory holds at the same time, trained next to each other from first to last evaluation.
- **tier**: batch sizes that share a microbatch size and so their programs.

`stage` decides which trials run, `lane_programs` in which programs, `train_wave` trains a `wave` of them, and `lanes`
holds the program itself.
"""
