"""Train one step: model, optimizer, learning-rate schedule, loss, and statistics of the gradients."""
