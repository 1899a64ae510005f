"""The method: objectives, Algorithm 1 in a straight line, and the training steps."""
