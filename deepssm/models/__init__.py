"""What the world is: state space models, classical and neural."""

