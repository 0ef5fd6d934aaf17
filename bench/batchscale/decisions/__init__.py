"""What rows decide for both halves: where runs reach the goal, and which learning rate each batch size takes."""
